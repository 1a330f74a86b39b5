//! Which shard of a group a datagram belongs to, told by the first byte of its destination connection ID.
//!
//! The same rule stands here twice: as [`steering_byte`], which every datagram meets before an endpoint sees it, and as
//! [`program`], which the kernel runs to choose a socket of a `SO_REUSEPORT` group. The program saves the way over
//! another shard and nothing more: a group works as well without it.
//!
//! An endpoint answers a short header that it does not know with a stateless reset (RFC 9000 §10.3), and all shards
//! share the reset key, so the peer would believe it. That is why nothing foreign may reach an endpoint.

use libc::{
    BPF_A, BPF_ABS, BPF_ALU, BPF_B, BPF_JA, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_MOD, BPF_RET,
    sock_filter,
};

use crate::ShardIndex;

/// The bit that distinguishes long headers from short ones (RFC 9000 §17.2).
const LONG_HEADER: u8 = 0x80;

/// Where a short header has its destination connection ID (RFC 9000 §17.3).
const SHORT_CID_AT: u8 = 1;

/// Where a long header has the length of its destination connection ID, with the ID behind (RFC 8999 §5.1).
const LONG_CID_BYTES_AT: u8 = 5;
const LONG_CID_AT: u8 = 6;

/// The byte to steer by. `None` if the datagram has none: it is too short, or its connection ID is empty.
///
/// In a client's first packets that is a byte of the client's choice (RFC 9000 §7.2), the same in each of them, so the
/// attempt stays on one shard, and attempts spread over all of them.
pub(crate) fn steering_byte(datagram: &[u8]) -> Option<u8> {
    let at = |offset: u8| datagram.get(usize::from(offset)).copied();
    if at(0)? & LONG_HEADER == 0 {
        at(SHORT_CID_AT)
    } else if at(LONG_CID_BYTES_AT)? == 0 {
        None
    } else {
        at(LONG_CID_AT)
    }
}

/// The sibling that a datagram belongs to; `None` if it is this shard's own, or nobody's.
pub(crate) fn foreign_owner(shard: ShardIndex, datagram: &[u8]) -> Option<usize> {
    let byte = steering_byte(datagram)?;
    (!shard.owns(byte)).then(|| usize::from(u16::from(byte) % shard.count()))
}

/// The classic-BPF program for `SO_ATTACH_REUSEPORT_CBPF` that chooses one of `shards` sockets, at least one.
///
/// It sees the UDP payload, and answers with the index of a socket in the order in which they joined the group
/// (`reuseport_select_sock` in the kernel's `net/core/sock_reuseport.c`). A load beyond the end ends the program with
/// answer 0, so what is too short goes to the first shard. For every datagram with a [`steering_byte`] the answer is that
/// byte modulo `shards`; for others it is any shard, which then sees that the datagram is nobody's.
pub(crate) fn program(shards: u16) -> [sock_filter; 7] {
    let load = |at: u8| statement(BPF_LD | BPF_B | BPF_ABS, at.into());
    [
        load(0),
        // Long headers go on, short ones skip two.
        sock_filter {
            jf: 2,
            ..statement(BPF_JMP | BPF_JSET | BPF_K, LONG_HEADER.into())
        },
        load(LONG_CID_AT),
        statement(BPF_JMP | BPF_JA, 1),
        load(SHORT_CID_AT),
        statement(BPF_ALU | BPF_MOD | BPF_K, shards.into()),
        statement(BPF_RET | BPF_A, 0),
    ]
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter {
        // All of the codes are below 2^8.
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the kernel's interpreter does with the instructions in use.
    fn run(program: &[sock_filter], datagram: &[u8]) -> u32 {
        const LOAD: u32 = BPF_LD | BPF_B | BPF_ABS;
        const JUMP: u32 = BPF_JMP | BPF_JA;
        const JUMP_IF: u32 = BPF_JMP | BPF_JSET | BPF_K;
        const MODULO: u32 = BPF_ALU | BPF_MOD | BPF_K;
        const ANSWER: u32 = BPF_RET | BPF_A;
        let (mut accumulator, mut at) = (0, 0);
        loop {
            let instruction = program[at];
            at += 1;
            match u32::from(instruction.code) {
                LOAD => match datagram.get(instruction.k as usize) {
                    Some(&byte) => accumulator = byte.into(),
                    None => return 0,
                },
                JUMP => at += instruction.k as usize,
                JUMP_IF if accumulator & instruction.k != 0 => at += usize::from(instruction.jt),
                JUMP_IF => at += usize::from(instruction.jf),
                MODULO => accumulator %= instruction.k,
                ANSWER => return accumulator,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    fn check(datagram: &[u8], shards: u16) {
        let chosen = run(&program(shards), datagram);
        assert!(chosen < shards.into());
        if let Some(byte) = steering_byte(datagram) {
            assert_eq!(chosen, u32::from(u16::from(byte) % shards));
        }
    }

    proptest! {
        #[test]
        fn the_program_chooses_as_the_function_does(
            datagram in proptest::collection::vec(any::<u8>(), 0..40),
            shards in 1u16..=256,
        ) {
            check(&datagram, shards);
        }

        #[test]
        fn every_shard_agrees_who_owns_a_datagram(
            datagram in proptest::collection::vec(any::<u8>(), 0..12),
            shards in 1u16..=256,
        ) {
            let owners: Vec<Option<usize>> = (0..shards)
                .map(|index| {
                    let index = u8::try_from(index).unwrap();
                    foreign_owner(ShardIndex::new(index, shards).unwrap(), &datagram)
                })
                .collect();
            match steering_byte(&datagram) {
                None => assert!(owners.iter().all(Option::is_none)),
                Some(byte) => {
                    let owner = usize::from(u16::from(byte) % shards);
                    for (index, said) in owners.iter().enumerate() {
                        assert_eq!(*said, (index != owner).then_some(owner));
                    }
                }
            }
        }
    }

    #[test]
    fn every_byte_of_both_headers() {
        for byte in 0..=255 {
            let short = [0x40, byte];
            let long = [0xc0, 0, 0, 0, 1, 8, byte, 0];
            assert_eq!(steering_byte(&short), Some(byte));
            assert_eq!(steering_byte(&long), Some(byte));
            for shards in [1, 2, 3, 7, 255, 256] {
                check(&short, shards);
                check(&long, shards);
            }
        }
    }

    #[test]
    fn what_has_no_connection_id_is_nobodys() {
        let cut = [&[][..], &[0x40], &[0xc0], &[0xc0, 0, 0, 0, 1, 8]];
        let empty = [&[0xc0, 0, 0, 0, 1, 0, 8, 1][..]];
        for datagram in cut.into_iter().chain(empty) {
            assert_eq!(steering_byte(datagram), None, "{datagram:?}");
            check(datagram, 4);
        }
    }
}
