//! The lines of a state file and how a file is read back. Pure: bytes in, lines out.
//!
//! The first line names the format, each further one is a JSON object that says what happened next. A line counts
//! once its line break is there, so a crash while writing leaves at most a tail that is no line, which is cut off.

use petrel_protocol::MessageId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::message::id_text;

/// The format that this SDK writes.
const VERSION: u32 = 1;

/// The first line of every state file.
pub(super) const HEADER: &str = "{\"petrel_device_state\":1}\n";

/// A line after the first.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line<'a> {
    /// Replaces the registration.
    #[serde(borrow)]
    Registration(&'a RawValue),
    /// Adds to the inbox.
    #[serde(borrow)]
    Kept(Kept<'a>),
    /// Removes from the inbox.
    Done(Vec<Id>),
    /// Ids received before everything that follows; written by a compaction.
    Recent(Vec<Id>),
}

#[derive(Serialize, Deserialize)]
pub(super) struct Kept<'a> {
    pub(super) id: Id,
    #[serde(borrow)]
    pub(super) body: &'a RawValue,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Id(#[serde(with = "id_text")] pub(super) MessageId);

#[derive(Deserialize)]
struct Header {
    petrel_device_state: u32,
}

/// Writes a line with its line break.
pub(super) fn encode(line: &Line<'_>, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    serde_json::to_writer(&mut *out, line)?;
    out.push(b'\n');
    Ok(())
}

/// Checks that a text of the caller is one line of JSON.
pub(super) fn body(text: &str) -> Result<&RawValue, String> {
    if text.contains('\n') {
        return Err("a record must not have line breaks".into());
    }
    serde_json::from_str(text).map_err(|e| format!("a record must be JSON: {e}"))
}

/// A line that is wrong where it must not be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Corrupt {
    /// Which line, from 1.
    pub(super) line: usize,
    /// What is wrong with it.
    pub(super) problem: String,
}

/// Reads a file: calls `line` with each line, its offset and its length, both in bytes. Returns how many bytes hold
/// whole lines; what is beyond is a torn tail to be cut off. 0 means a new file.
///
/// Nothing but a tail is ever cut: a wrong line with a right one behind it, or a file that does not begin as one of
/// ours, is an error and the file stays as it is.
pub(super) fn replay(
    bytes: &[u8],
    mut line: impl FnMut(Line<'_>, u64, u32),
) -> Result<u64, Corrupt> {
    let Some(first) = bytes.iter().position(|&b| b == b'\n') else {
        // Killed while making the file: a beginning of our own first line is no foreign file.
        return if HEADER.as_bytes().starts_with(bytes) {
            Ok(0)
        } else {
            Err(not_ours())
        };
    };
    let header: Header = serde_json::from_slice(&bytes[..first]).map_err(|_| not_ours())?;
    if header.petrel_device_state != VERSION {
        return Err(Corrupt {
            line: 1,
            problem: format!(
                "format {}, this SDK reads {VERSION}",
                header.petrel_device_state
            ),
        });
    }
    let mut good_end = first + 1;
    let mut wrong: Option<Corrupt> = None;
    let pieces = bytes[good_end..].split_inclusive(|&b| b == b'\n');
    for (number, piece) in (2..).zip(pieces) {
        match parse(piece) {
            Ok(parsed) => {
                if let Some(corrupt) = wrong {
                    return Err(corrupt);
                }
                let length = u32::try_from(piece.len()).map_err(|_| Corrupt {
                    line: number,
                    problem: "longer than 4 GiB".into(),
                })?;
                line(parsed, good_end as u64, length);
                good_end += piece.len();
            }
            Err(problem) => {
                wrong.get_or_insert(Corrupt {
                    line: number,
                    problem,
                });
            }
        }
    }
    Ok(good_end as u64)
}

fn parse(piece: &[u8]) -> Result<Line<'_>, String> {
    let text = piece.strip_suffix(b"\n").ok_or("no line break")?;
    serde_json::from_slice(text).map_err(|e| e.to_string())
}

fn not_ours() -> Corrupt {
    Corrupt {
        line: 1,
        problem: "it does not begin as one".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(bytes: &[u8]) -> Result<(u64, usize), Corrupt> {
        let mut lines = 0;
        replay(bytes, |_, _, _| lines += 1).map(|end| (end, lines))
    }

    #[test]
    fn only_a_tail_is_cut_and_only_from_a_file_of_ours() {
        let good = format!("{HEADER}{{\"done\":[\"1-2\"]}}\n");
        let end = good.len() as u64;
        assert_eq!(count(b""), Ok((0, 0)));
        assert_eq!(count(&HEADER.as_bytes()[..9]), Ok((0, 0)));
        assert_eq!(count(good.as_bytes()), Ok((end, 1)));
        for tail in [
            "{\"done\":[\"1-",
            "\0\0\0\0",
            "{}\n",
            "{\"done\":[\"1-2\"]}",
        ] {
            assert_eq!(
                count(format!("{good}{tail}").as_bytes()),
                Ok((end, 1)),
                "{tail}"
            );
        }
        let middle = format!("{HEADER}rubbish\n{{\"done\":[\"1-2\"]}}\n");
        assert_eq!(count(middle.as_bytes()).unwrap_err().line, 2);
        for foreign in [
            "my diary",
            "my diary\n",
            "{\"token\":1}\n",
            "{\"petrel_device_state\":2}\n",
        ] {
            assert_eq!(count(foreign.as_bytes()).unwrap_err().line, 1, "{foreign}");
        }
    }

    #[test]
    fn bodies_are_one_line_of_json() {
        assert!(body("{\"a\":1}").is_ok());
        assert!(body("{\"a\":\n1}").is_err());
        assert!(body("{").is_err());
    }
}
