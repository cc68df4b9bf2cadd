//! One resource: its pages, and a write for each object.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::Instant;

use super::checkpoint::Checkpoint;
use super::options::{Options, Progress, Stop};
use super::outcome::{self, Done, Problem, Setback};
use super::pace::Pace;
use super::report::Tally;
use crate::cluster::{CallError, Connection, Object, Page, Resource};
use crate::retry::{Backoff, jitter, spread};

/// The pause after an answer that says the API server is busy, and not for how long.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause that an API server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often a write that fails is tried before the next objects come.
const TRIES: u32 = 3;
/// Most failed objects that are tried again at the end.
const MAX_AGAIN: usize = 10_000;
/// The pause between two rounds of failed objects.
const ROUND: Duration = Duration::from_secs(10);

/// How long something has gone on without a break, over all writes: that API servers do not answer, or that writes fail.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<Option<Instant>>);

impl Outage {
    fn set(&self, since: impl FnOnce(Option<Instant>) -> Option<Instant>) -> Duration {
        let mut began = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *began = since(*began);
        began.map(|began| began.elapsed()).unwrap_or_default()
    }

    fn over(&self) {
        self.set(|_| None);
    }

    /// Returns for how long.
    fn goes_on(&self) -> Duration {
        self.set(|began| Some(began.unwrap_or_else(Instant::now)))
    }

    /// For how long it has gone on so far; zero when it does not.
    fn lasts(&self) -> Duration {
        self.set(|began| began)
    }
}

/// What the writes of one resource share.
pub(super) struct Pass<'a> {
    pub connection: &'a Connection,
    pub resource: &'a Resource,
    pub options: &'a Options,
    pub pace: &'a Pace,
    pub outage: &'a Outage,
    /// Writes of this resource fail.
    pub failing: Outage,
    pub progress: &'a dyn Progress,
    pub tally: &'a Mutex<Tally>,
}

/// An object that failed, and may work later.
struct Again {
    object: Object,
    problem: Problem,
    message: String,
}

impl Pass<'_> {
    /// Rewrites all objects.
    pub(super) async fn run(&self, checkpoint: &mut Checkpoint) -> Result<(), Stop> {
        let mut again = VecDeque::new();
        let (mut next, mut limit, mut begin) = (None, self.options.page, None);
        loop {
            let page = match self.page(&mut limit, &mut next).await? {
                Ok(page) => page,
                Err(problem) => {
                    self.count(|tally| tally.list_problem = Some(problem));
                    break;
                }
            };
            let begin = match begin {
                Some(begin) => begin,
                None => {
                    self.progress.expect(page.objects.len() as u64 + page.remaining);
                    let name = self.resource.name();
                    let revision = match page.revision {
                        Some(now) if self.options.dry_run => checkpoint.known(&name, now),
                        Some(now) => Some(checkpoint.begin(&name, now).map_err(Stop::Checkpoint)?),
                        None => None,
                    };
                    *begin.insert(revision)
                }
            };
            self.objects(page.objects, begin, &mut again).await?;
            match page.next {
                _ if self.gave_up() => break,
                Some(token) => next = Some(token),
                None => break,
            }
        }
        if self.gave_up() {
            let patience = self.options.patience;
            let why = format!("no write has worked for {patience:?}, and the other objects were not tried");
            self.count(|tally| {
                tally.list_problem.get_or_insert(why);
            });
        }
        self.later(again).await
    }

    /// Whether writes have failed, and none has worked, for as long as the run is patient: a webhook that is away would
    /// cost seconds for each object of a large cluster.
    fn gave_up(&self) -> bool {
        self.failing.lasts() > self.options.patience
    }

    fn count(&self, work: impl FnOnce(&mut Tally)) {
        work(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A page, after as many attempts as it needs. The inner error is why the list ends here.
    async fn page(&self, limit: &mut usize, next: &mut Option<String>) -> Result<Result<Page, String>, Stop> {
        let mut backoff = Backoff::new(PAUSE, PAUSE * 15);
        let mut failing: Option<Instant> = None;
        loop {
            let error = match self.connection.page(self.resource, *limit, next.as_deref()).await {
                Ok(page) => {
                    self.outage.over();
                    return Ok(Ok(page));
                }
                Err(error) => error,
            };
            match &error {
                CallError::TooLarge(_) if *limit > 1 => {
                    *limit = (*limit / 4).max(1);
                    continue;
                }
                // The token is too old. The API server continues at its place, with what is there now; what was
                // written since is under the new key.
                CallError::Refused(refusal) if refusal.code == 410 => {
                    *next = refusal.next.clone();
                    continue;
                }
                _ => {}
            }
            let text = error.to_string();
            match outcome::setback(error) {
                Setback::Busy(pause) => tokio::time::sleep(bounded(pause)).await,
                Setback::Away(why) => self.away(&why, &mut backoff).await?,
                // An object that cannot be decrypted now: its key service may come back.
                Setback::Failing(problem) => {
                    if failing.get_or_insert_with(Instant::now).elapsed() > self.options.patience {
                        return Ok(Err(format!("{text}; {}", problem.remedy())));
                    }
                    self.progress.note(&format!("waiting: {text}"));
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Setback::Refused(problem) => return Ok(Err(format!("{text}; {}", problem.remedy()))),
            }
        }
    }

    /// Waits for an API server that does not answer.
    async fn away(&self, why: &str, backoff: &mut Backoff) -> Result<(), Stop> {
        if self.outage.goes_on() > self.options.patience {
            return Err(Stop::Away(why.to_owned()));
        }
        self.progress.note(&format!("waiting: {why}"));
        tokio::time::sleep(backoff.next_delay()).await;
        Ok(())
    }

    /// Writes the objects of a page, some at the same time.
    async fn objects(
        &self,
        objects: Vec<Object>,
        begin: Option<u64>,
        again: &mut VecDeque<Again>,
    ) -> Result<(), Stop> {
        self.count(|tally| tally.objects += objects.len() as u64);
        let newer =
            |object: &Object| matches!((object.revision(), begin), (Some(at), Some(begin)) if at > begin);
        let (skipped, wanted): (Vec<_>, Vec<_>) = objects.into_iter().partition(newer);
        self.count(|tally| tally.newer += skipped.len() as u64);
        self.progress.advance(skipped.len() as u64);
        if self.options.dry_run {
            self.progress.advance(wanted.len() as u64);
            return Ok(());
        }
        let writes = futures_util::stream::iter(wanted).map(|object| async {
            if self.gave_up() {
                return None;
            }
            let written = self.write(&object, TRIES).await;
            Some((object, written))
        });
        let mut writes = std::pin::pin!(writes.buffer_unordered(self.options.parallel));
        while let Some(tried) = writes.next().await {
            self.progress.advance(1);
            let Some((object, written)) = tried else { continue };
            match written? {
                Ok(done) => self.count(|tally| tally.done(done)),
                Err((problem, message, true)) if again.len() < MAX_AGAIN => {
                    again.push_back(Again { object, problem, message });
                }
                Err((problem, message, _)) => {
                    self.count(|tally| tally.failed(&object.to_string(), &problem, &message));
                }
            }
        }
        Ok(())
    }

    /// One object. The inner error: why it is not rewritten, the words of the API server, and whether it may work later.
    async fn write(
        &self,
        object: &Object,
        tries: u32,
    ) -> Result<Result<Done, (Problem, String, bool)>, Stop> {
        let mut backoff = Backoff::new(PAUSE, PAUSE * 15);
        let mut failures = 0;
        loop {
            let turn = self.pace.turn().await;
            let (setback, message) =
                match outcome::of(self.connection.write_unchanged(self.resource, object).await) {
                    Ok(done) => {
                        turn.answered();
                        self.outage.over();
                        self.failing.over();
                        return Ok(Ok(done));
                    }
                    Err(setback) => setback,
                };
            match setback {
                Setback::Busy(pause) => {
                    self.outage.over();
                    turn.refused(bounded(pause));
                }
                Setback::Away(why) => {
                    turn.refused(PAUSE);
                    self.away(&why, &mut backoff).await?;
                }
                Setback::Refused(problem) => {
                    turn.answered();
                    self.outage.over();
                    self.failing.over();
                    return Ok(Err((problem, message, false)));
                }
                Setback::Failing(problem) => {
                    turn.refused(PAUSE);
                    self.outage.over();
                    self.failing.goes_on();
                    failures += 1;
                    if failures >= tries || self.gave_up() {
                        return Ok(Err((problem, message, true)));
                    }
                }
            }
        }
    }

    /// Tries failed objects again, until nothing of them has worked for as long as the run is patient.
    async fn later(&self, mut again: VecDeque<Again>) -> Result<(), Stop> {
        let mut progress = Instant::now();
        while !again.is_empty() && !self.gave_up() && progress.elapsed() < self.options.patience {
            let first = again.front().map(|first| first.message.clone()).unwrap_or_default();
            self.progress.note(&format!("{} objects are tried again: {first}", again.len()));
            tokio::time::sleep(spread(ROUND, jitter())).await;
            for _ in 0..again.len() {
                let Some(mut one) = again.pop_front() else { break };
                match self.write(&one.object, 1).await? {
                    Ok(done) => {
                        progress = Instant::now();
                        self.count(|tally| tally.done(done));
                    }
                    Err((problem, message, later)) => {
                        (one.problem, one.message) = (problem, message);
                        if later && progress.elapsed() < self.options.patience {
                            again.push_back(one);
                        } else {
                            let name = one.object.to_string();
                            self.count(|tally| tally.failed(&name, &one.problem, &one.message));
                        }
                    }
                }
            }
        }
        for one in again {
            self.count(|tally| tally.failed(&one.object.to_string(), &one.problem, &one.message));
        }
        Ok(())
    }
}

fn bounded(pause: Option<Duration>) -> Duration {
    spread(pause.unwrap_or(PAUSE).min(LONGEST_PAUSE), jitter())
}
