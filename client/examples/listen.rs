//! A device in a few lines: registers, subscribes, prints what comes.
//!
//! `listen BROKER CA_FILE PROJECT APP_KEY STATE_FILE [TOPIC…]`
#![allow(clippy::print_stdout)]

use petrel_client::{Client, Event, FileStorage};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [broker, ca, project, app_key, state, topics @ ..] = arguments.as_slice() else {
        return Err("usage: listen BROKER CA_FILE PROJECT APP_KEY STATE_FILE [TOPIC…]".into());
    };
    let (client, mut events) = Client::builder(broker)
        .ca_file(ca)
        .project(project)
        .app_key(app_key)
        .storage(FileStorage::open(state)?)
        .connect()
        .await?;
    for topic in topics {
        client.subscribe(topic).await?;
        println!("subscribed to {topic}");
    }
    while let Some(event) = events.next().await {
        match event {
            Event::Registered { token, .. } => println!("token {token}"),
            Event::Message(message) => {
                println!(
                    "message {} {:?} {:?}",
                    message.id, message.notification, message.data
                );
                message.done();
            }
            Event::Gap { topic, count, .. } => println!("{count} messages of {topic:?} are lost"),
            Event::Disconnected { cause, retry_in } => println!("{cause}; again in {retry_in:?}"),
            Event::Closed(cause) => println!("closed: {cause}"),
            other => println!("{other:?}"),
        }
    }
    Ok(())
}
