//! A device on the wire level, with an inbox that survives everything: it attaches, acks at once or late or never,
//! subscribes, unsubscribes, leaves well or without a word, unregisters and registers anew.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use petrel_protocol::session::{DeviceEvent, DeviceSession, RequestId};
use petrel_protocol::wire::{Hello, Register, Subscribe, Unregister, Unsubscribe, to_broker};
use petrel_protocol::{ErrorCode, MessageId, wire};
use tokio::time::{Instant, sleep, sleep_until};

use crate::account::{Account, Member};
use crate::arrivals::Arrival;
use crate::book::{FLOOD, TOPICS};
use crate::chance::Chance;
use crate::common::{id, new_secret};
use crate::link::{Gone, Link};
use crate::world::{Life, Mood, World};

/// How a device behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Habit {
    /// Comes and goes, and acks each message at once.
    Eager,
    /// Comes and goes, acks late, and some messages not in this session.
    Lazy,
    /// The same, and holds back what is not urgent until the end.
    Reserved,
    /// Is away while its queue and its topic's log run over, and empties them when it comes.
    Away,
}

/// A request under way.
struct Asked {
    /// How many acks the session had sent before.
    acks: usize,
    change: Change,
}

#[derive(Clone, Copy)]
enum Change {
    Nothing,
    Member(usize, Member),
    End,
}

/// One device.
pub(crate) struct Phone {
    world: Arc<World>,
    number: u64,
    habit: Habit,
    chance: Chance,
    device: usize,
    secret: Bytes,
    cursor: Option<MessageId>,
    asked: HashMap<RequestId, Asked>,
    unacked: Vec<MessageId>,
    /// Messages and gaps that came in this session.
    came: usize,
}

impl Phone {
    pub(crate) fn new(world: Arc<World>, number: u64, habit: Habit) -> Self {
        let mut phone = Self {
            chance: world.chance(2_000 + number),
            world,
            number,
            habit,
            device: 0,
            secret: Bytes::new(),
            cursor: None,
            asked: HashMap::new(),
            unacked: Vec::new(),
            came: 0,
        };
        phone.renew();
        phone
    }

    /// Begins with a new registration.
    fn renew(&mut self) {
        let mut book = self.world.book();
        let mut account = Account::new(format!("phone {} {:?}", self.number, self.habit), false);
        account.is_plain = self.habit == Habit::Away;
        self.device = book.accounts.len();
        book.accounts.push(account);
        self.secret = new_secret();
        self.cursor = None;
    }

    /// Lives until the end of the world.
    pub(crate) async fn live(mut self) {
        let world = Arc::clone(&self.world);
        loop {
            let life = world.living(0).await;
            let is_last = world.mood() == Mood::Finish;
            let done = world.while_alive(&life, self.session(&life, is_last)).await;
            self.lost();
            match done {
                None | Some(Err(Gone)) => {}
                Some(Ok(())) if is_last => {
                    let actor = self.number;
                    world.quiet.send_modify(|quiet| _ = quiet.insert(actor));
                    // Rounds are a kill apart.
                    world.living(life.number).await;
                    continue;
                }
                Some(Ok(())) => {}
            }
            let away = match self.habit {
                Habit::Away => self.chance.millis(300..1_500),
                _ => self.chance.millis(1..250),
            };
            if world.mood() != Mood::Finish {
                sleep(away).await;
            }
        }
    }

    /// What is left of a session that did not end well.
    fn lost(&mut self) {
        let mut book = self.world.book();
        let account = &mut book.accounts[self.device];
        account.close(false);
        account.is_reserved = false;
        self.asked.clear();
        self.unacked.clear();
        self.came = 0;
    }

    async fn session(&mut self, life: &Life, is_last: bool) -> Result<(), Gone> {
        let is_thorough = is_last || self.habit == Habit::Away;
        if is_thorough {
            self.world.book().accounts[self.device].is_reserved = true;
        }
        let mut link = self.open(life, is_last).await?;
        if is_thorough {
            self.empty(&mut link).await?;
        } else {
            self.linger(&mut link).await?;
        }
        if is_thorough || self.chance.percent(70) {
            link.goodbye().await?;
            let mut book = self.world.book();
            let account = &mut book.accounts[self.device];
            if let Some(session) = account.session.as_ref().filter(|_| is_thorough) {
                account
                    .emptied
                    .push((session.began, std::time::Instant::now()));
            }
            account.close(true);
        }
        Ok(())
    }

    async fn open(&mut self, life: &Life, is_last: bool) -> Result<Link, Gone> {
        let minimum_urgency = match self.habit {
            Habit::Reserved if !is_last => wire::Urgency::High as i32,
            _ => wire::Urgency::Unspecified as i32,
        };
        let token = self.world.book().accounts[self.device].token.clone();
        let session = match token {
            Some(token) => DeviceSession::hello(Hello {
                token,
                secret: self.secret.clone(),
                cursor: self.cursor.map(Into::into),
                minimum_urgency,
                ..Hello::default()
            }),
            None => DeviceSession::register(Register {
                project: self.world.project.clone(),
                app_key: self.world.app_key.clone(),
                secret: self.secret.clone(),
                minimum_urgency,
                ..Register::default()
            }),
        };
        self.world.book().accounts[self.device].open();
        let mut link = Link::open(&self.world.endpoint, life, session).await?;
        loop {
            match link.event().await? {
                DeviceEvent::Registered(token) => {
                    let mut book = self.world.book();
                    book.accounts[self.device].token = Some(token.as_str().to_owned());
                    book.totals.registered += 1;
                }
                DeviceEvent::Welcome(welcome) => {
                    self.cursor = Some(welcome.settled_up_to);
                    self.world.book().totals.sessions += 1;
                    return Ok(link);
                }
                DeviceEvent::Error {
                    number, message, ..
                } => {
                    self.turned_away(number, &message);
                    return Err(Gone);
                }
                // The broker is about to go.
                DeviceEvent::Reconnect { .. } => return Err(Gone),
                other => panic!("instead of Welcome: {other:?}"),
            }
        }
    }

    fn turned_away(&mut self, number: u32, message: &str) {
        let dead = [
            ErrorCode::Unregistered,
            ErrorCode::InvalidToken,
            ErrorCode::WrongSecret,
            ErrorCode::AppKeyRefused,
        ];
        if !dead.into_iter().any(|code| code as u32 == number) {
            return;
        }
        let mut book = self.world.book();
        let account = &mut book.accounts[self.device];
        if account.ending_at.is_some() && number == ErrorCode::Unregistered as u32 {
            account.ended_at = Some(std::time::Instant::now());
            book.totals.ended += 1;
            drop(book);
            self.lost();
            self.renew();
        } else {
            let what = format!("a living registration was turned away: {number} {message}");
            book.violation(Some(self.device), None, &what);
        }
    }

    /// Stays until nothing comes any more and everything is settled.
    async fn empty(&mut self, link: &mut Link) -> Result<(), Gone> {
        let is_ending = self.world.book().accounts[self.device].ending_at.is_some();
        let is_new = self.world.book().accounts[self.device].is_member_now(FLOOD) != Member::Yes;
        if self.habit == Habit::Away && is_new {
            self.ask(link, Change::Member(FLOOD, Member::Yes)).await?;
        }
        // Whatever was owed before a request comes before its answer, as far as the window goes; acks open it further.
        let mut silent = 0;
        while silent < 2 {
            let before = self.came;
            self.ask(link, Change::Nothing).await?;
            while !self.asked.is_empty() {
                let event = link.event().await?;
                self.handle(link, event, true).await?;
            }
            silent = if self.came == before { silent + 1 } else { 0 };
        }
        if is_ending {
            self.ask(link, Change::End).await?;
            while let Ok(event) = link.event().await {
                self.handle(link, event, true).await?;
            }
            return Err(Gone);
        }
        Ok(())
    }

    /// Stays for a while, and does this and that.
    async fn linger(&mut self, link: &mut Link) -> Result<(), Gone> {
        let end = Instant::now() + self.chance.millis(10..600);
        let mut next = Instant::now();
        loop {
            tokio::select! {
                event = link.event() => self.handle(link, event?, false).await?,
                () = sleep_until(next) => {
                    next += self.chance.millis(5..80);
                    self.act(link).await?;
                }
                () = sleep_until(end) => return Ok(()),
            }
        }
    }

    async fn act(&mut self, link: &mut Link) -> Result<(), Gone> {
        let late = std::mem::take(&mut self.unacked);
        self.ack(link, &late).await?;
        if !self.asked.is_empty() {
            return Ok(());
        }
        let topic = self.chance.below(FLOOD);
        let change = match self.chance.below(200) {
            0 => Change::End,
            1..40 => Change::Member(topic, Member::Yes),
            40..50 => Change::Member(topic, Member::No),
            50..110 => Change::Nothing,
            _ => return Ok(()),
        };
        self.ask(link, change).await
    }

    async fn ask(&mut self, link: &mut Link, change: Change) -> Result<(), Gone> {
        let acks = {
            let mut book = self.world.book();
            let account = &mut book.accounts[self.device];
            match change {
                Change::Nothing => {}
                Change::Member(topic, member) if account.is_member_now(topic) == member => {}
                Change::Member(topic, _) => account.set_member(topic, Member::Maybe),
                Change::End => {
                    let now = std::time::Instant::now();
                    account.ending_at.get_or_insert(now);
                    account.note("unregisters");
                }
            }
            account.acks_sent()
        };
        let request = match change {
            Change::Nothing => link.round_trip().await?,
            Change::Member(topic, member) => {
                let topic = TOPICS[topic].to_owned();
                let make = |request| match member {
                    Member::Yes => to_broker::Frame::Subscribe(Subscribe { request, topic }),
                    _ => to_broker::Frame::Unsubscribe(Unsubscribe { request, topic }),
                };
                link.request(make).await?
            }
            Change::End => {
                let make = |request| to_broker::Frame::Unregister(Unregister { request });
                link.request(make).await?
            }
        };
        self.asked.insert(request, Asked { acks, change });
        Ok(())
    }

    async fn handle(
        &mut self,
        link: &mut Link,
        event: DeviceEvent,
        is_thorough: bool,
    ) -> Result<(), Gone> {
        match event {
            DeviceEvent::Deliver(message) => {
                self.came += 1;
                let id = id(&message);
                let arrival = Arrival::from(&*message);
                self.world.book().arrived(self.device, &arrival);
                let is_eager = matches!(self.habit, Habit::Eager | Habit::Away);
                if is_eager || is_thorough || self.chance.percent(40) {
                    self.ack(link, &[id]).await?;
                } else if self.chance.percent(90) {
                    self.unacked.push(id);
                }
            }
            DeviceEvent::Gap(gap) => {
                self.came += 1;
                self.world.book().gap(self.device, &gap);
                link.session.ack(gap.id.unwrap().into());
                link.flush().await?;
            }
            DeviceEvent::Settled(up_to) => self.cursor = Some(up_to),
            DeviceEvent::Result(request, result) => self.answered(request, &result)?,
            DeviceEvent::Error { .. } => return Err(Gone),
            _ => {}
        }
        Ok(())
    }

    fn answered(
        &mut self,
        request: RequestId,
        result: &Result<(), (u32, String)>,
    ) -> Result<(), Gone> {
        let Some(asked) = self.asked.remove(&request) else {
            return Ok(());
        };
        // Too much to do: the request may be made again.
        if result.is_err() {
            return Ok(());
        }
        let mut book = self.world.book();
        let account = &mut book.accounts[self.device];
        account.confirmed(asked.acks);
        match asked.change {
            Change::Nothing => {}
            Change::Member(topic, member) => account.set_member(topic, member),
            Change::End => {
                account.ended_at = Some(std::time::Instant::now());
                book.totals.ended += 1;
                drop(book);
                self.lost();
                self.renew();
                return Err(Gone);
            }
        }
        Ok(())
    }

    async fn ack(&mut self, link: &mut Link, ids: &[MessageId]) -> Result<(), Gone> {
        if ids.is_empty() {
            return Ok(());
        }
        self.world.book().accounts[self.device].acked(ids);
        for id in ids {
            link.session.ack(*id);
        }
        link.flush().await
    }
}
