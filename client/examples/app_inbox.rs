//! An app that works on its messages in tasks of its own: events as a `Stream`, `done` when the work is done.
//!
//! Kill it while it works and start it again: what was not done comes again, marked as redelivered.
//!
//! `app_inbox BROKER CA_FILE PROJECT APP_KEY STATE_FILE`
#![allow(clippy::print_stdout)]

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use futures_core::Stream as _;
use petrel_client::{Client, Delivery, Event, FileStorage};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [broker, ca, project, app_key, state] = arguments.as_slice() else {
        return Err("usage: app_inbox BROKER CA_FILE PROJECT APP_KEY STATE_FILE".into());
    };
    // `start` returns at once: what an earlier run left comes even without a network.
    let (_client, events) = Client::builder(broker)
        .ca_file(ca)
        .project(project)
        .app_key(app_key)
        .storage(FileStorage::open(state)?)
        .start()?;
    let mut events = pin!(events);
    while let Some(event) = poll_fn(|cx| events.as_mut().poll_next(cx)).await {
        match event {
            Event::Message(message) => drop(tokio::spawn(work(message))),
            other => println!("{other:?}"),
        }
    }
    Ok(())
}

async fn work(message: Delivery) {
    let again = if message.redelivered() { " again" } else { "" };
    println!("working on {}{again}", message.id);
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!("done with {}", message.id);
    message.done();
}
