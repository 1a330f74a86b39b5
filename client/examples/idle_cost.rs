//! A device that does nothing, and what that costs: prints how the interval is learnt, and bytes and wake-ups per hour.
//!
//! `idle_cost BROKER CA_FILE PROJECT APP_KEY STATE_FILE [NETWORK]`
//!
//! With the broker's default hint of 2 min it takes about four minutes to reach the longest interval, and two more to
//! measure it. A state file that was used on the same network before begins where it ended.
#![allow(clippy::print_stdout)]

use std::time::Duration;

use petrel_client::{Client, Event, FileStorage, NetworkId};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [broker, ca, project, app_key, state, network @ ..] = arguments.as_slice() else {
        return Err("usage: idle_cost BROKER CA_FILE PROJECT APP_KEY STATE_FILE [NETWORK]".into());
    };
    let (client, mut events) = Client::builder(broker)
        .ca_file(ca)
        .project(project)
        .app_key(app_key)
        .network(
            network
                .first()
                .map_or_else(NetworkId::default, |name| NetworkId::new(name)),
        )
        .storage(FileStorage::open(state)?)
        .connect()
        .await?;
    let mut shown = client.network_stats();
    loop {
        tokio::select! {
            event = events.next() => match event {
                None => return Ok(()),
                Some(Event::Message(message)) => message.done(),
                Some(other) => println!("{other:?}"),
            },
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        let stats = client.network_stats();
        if stats == shown {
            continue;
        }
        print!(
            "every {:?}: {} of {} answered",
            stats.interval, stats.keep_alives_answered, stats.keep_alives_sent
        );
        if let Some(hour) = stats.idle_hour {
            print!(
                "; per idle hour {:.0} bytes in {:.0} datagrams sent, {:.0} in {:.0} received, {:.0} wake-ups",
                hour.bytes_sent,
                hour.datagrams_sent,
                hour.bytes_received,
                hour.datagrams_received,
                hour.wake_ups
            );
        }
        println!(" (paths lost {})", stats.paths_lost);
        shown = stats;
    }
}
