//! A device of the real SDK: what its app is handed, over restarts of the broker and of itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use petrel_client::{Client, Event, Events, FileStorage};

use crate::account::{Account, Member, Told};
use crate::arrivals::Arrival;
use crate::book::TOPICS;
use crate::common::POLL;
use crate::world::{Life, Mood, World};

/// No event for so long, after an answer that came after all others, and the device is quiet.
const SILENCE: Duration = Duration::from_millis(200);

/// The topic that it is subscribed to.
const TOPIC: usize = 0;

/// Lives until the end of the world.
pub(crate) async fn live(world: Arc<World>, actor: u64, inbox: PathBuf) {
    let device = {
        let mut book = world.book();
        book.accounts
            .push(Account::new(format!("SDK {actor}"), true));
        book.accounts.len() - 1
    };
    loop {
        let life = world.living(0).await;
        // Each life its own app: the client of the former one is gone, with whatever it had not handed over.
        world
            .while_alive(&life, session(&world, &life, (actor, device), &inbox))
            .await;
        world.living(life.number).await;
    }
}

async fn session(world: &World, life: &Life, (actor, device): (u64, usize), inbox: &PathBuf) {
    let storage = loop {
        match FileStorage::open(inbox) {
            Ok(storage) => break storage,
            // The former client lets go of it as its task ends.
            Err(error) if error.is_retryable() => tokio::time::sleep(POLL).await,
            Err(error) => panic!("{error}"),
        }
    };
    let (client, mut events) = Client::builder(&life.quic.to_string())
        .ca_file(&world.ca)
        .project(&world.project)
        .app_key(&world.app_key)
        .storage(storage)
        .start()
        .unwrap();
    let mut moods = world.mood.subscribe();
    while world.book().accounts[device].token.is_none() {
        match events.next().await {
            Some(event) => handle(world, device, event),
            None => return,
        }
    }
    if world.book().accounts[device].is_member_now(TOPIC) != Member::Yes {
        world.book().accounts[device].set_member(TOPIC, Member::Maybe);
        let subscribed = client.subscribe(TOPICS[TOPIC]);
        tokio::pin!(subscribed);
        loop {
            tokio::select! {
                done = &mut subscribed => {
                    if done.is_ok() {
                        world.book().accounts[device].set_member(TOPIC, Member::Yes);
                    }
                    break;
                }
                event = events.next() => match event {
                    Some(event) => handle(world, device, event),
                    None => return,
                },
            }
        }
    }
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(event) => handle(world, device, event),
                None => return,
            },
            mood = moods.wait_for(|mood| *mood == Mood::Finish) => {
                mood.unwrap();
                break;
            }
        }
    }
    loop {
        empty(world, device, &client, &mut events).await;
        world.quiet.send_modify(|quiet| _ = quiet.insert(actor));
        // Until the kill, or until more comes.
        match events.next().await {
            Some(event) => handle(world, device, event),
            None => return,
        }
    }
}

/// Takes everything that the broker owes.
async fn empty(world: &World, device: usize, client: &Client, events: &mut Events) {
    loop {
        let answered = client.unsubscribe("never-subscribed");
        tokio::pin!(answered);
        let is_answered = loop {
            tokio::select! {
                done = &mut answered => break done.is_ok(),
                Some(event) = events.next() => handle(world, device, event),
            }
        };
        let mut is_silent = true;
        while let Ok(Some(event)) = tokio::time::timeout(SILENCE, events.next()).await {
            is_silent = false;
            handle(world, device, event);
        }
        if is_answered && is_silent {
            return;
        }
    }
}

fn handle(world: &World, device: usize, event: Event) {
    let mut book = world.book();
    match event {
        Event::Registered {
            token, previous, ..
        } => {
            let account = &mut book.accounts[device];
            let token = token.to_string();
            let known = account.token.get_or_insert_with(|| token.clone());
            if *known != token || previous.is_some() {
                let what = format!("the SDK had to register anew: {previous:?} {token}");
                book.violation(Some(device), None, &what);
            }
        }
        Event::Message(delivery) => {
            delivery.done();
            book.arrived(device, &Arrival::from(delivery.message()));
        }
        Event::Gap { topic, count, .. } => {
            let topic = topic.map(|topic| TOPICS.iter().position(|t| *t == topic).unwrap());
            book.accounts[device].told.push(Told {
                id: None,
                topic,
                count,
                at: std::time::Instant::now(),
            });
        }
        Event::Closed(cause) => {
            let what = format!("the SDK gave up: {cause:?}");
            book.violation(Some(device), None, &what);
        }
        _ => {}
    }
}
