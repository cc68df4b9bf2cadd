//! The attempts of one call: which address is tried when, and when again.
//!
//! Must not know what an answer means, beyond whether another attempt may help. Each attempt belongs to the caller's
//! deadline, and their number is bounded. A balancer leads each attempt at one address to another server: so one address
//! is tried again, too.
//!
//! Transit's calls change nothing, so an attempt that is not answered soon does not delay the next one: both run, and the
//! first answer counts (hedged requests). Logins and renewals are sent one after the other.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use super::answer::{Answer, CallError};
use super::classification::{self, Call, Class};
use super::client::Client;
use super::replication::Freshness;
use super::transport::Request;
use crate::clock::{Deadline, Purpose, until};
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::retry::{doubled, jitter};

/// Shortest time for one of several addresses before the next is tried.
pub(super) const MIN_SHARE: Duration = Duration::from_millis(250);
/// Shortest time for a request of the agent's own. What came before it may have used up the rest, which says nothing of the
/// server.
pub(super) const MIN_OWN: Duration = Duration::from_millis(50);
/// Longest time for an attempt of a call that changes nothing before the next one begins beside it.
const MAX_SHARE: Duration = Duration::from_secs(1);
/// Attempts of one call at the same time.
const MAX_RUNNING: usize = 3;
/// Most calls of one client that have more than one attempt at the same time. Such an attempt needs a connection, whose
/// handshake costs the server more than the request: without a limit, a server that is only slow stays slow.
pub(super) const MAX_HEDGED: usize = 8;
/// Most attempts of a call of the API server, unless there are more addresses than that.
const MAX_ATTEMPTS: usize = 12;
/// Most passes over the addresses for such a call: with the pauses they last for kube-apiserver's three seconds.
const MAX_PASSES: usize = 10;
/// Passes for all others: the agent comes back to them by itself.
const USUAL_PASSES: usize = 2;
/// First and longest pause before a pass over one address, and over several.
const PAUSE: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(400));
const PAUSE_OF_SEVERAL: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(800));
/// Pause after an answer that asks to slow down, and does not say for how long.
const THROTTLED_PAUSE: Duration = Duration::from_millis(500);

/// The plan of a call.
struct Plan {
    order: Vec<usize>,
    /// Most attempts.
    limit: usize,
    /// Whether the next attempt may begin beside one that is not answered.
    beside: bool,
    freshness: Freshness,
    begun: usize,
    /// When the next attempt begins.
    next: Option<Instant>,
}

/// An attempt that has begun.
struct Running<F> {
    /// The index of the address.
    address: usize,
    since: Instant,
    attempt: Pin<Box<F>>,
}

impl Plan {
    fn new(order: Vec<usize>, call: Call, freshness: Freshness, purpose: Purpose) -> Self {
        let changes_nothing =
            matches!(call, Call::Encrypt | Call::Decrypt | Call::ReadKey | Call::Lookup | Call::Capabilities);
        let passes = match (purpose, order.len()) {
            (Purpose::ApiServer, count) if changes_nothing => {
                (MAX_ATTEMPTS / count.max(1)).clamp(USUAL_PASSES, MAX_PASSES)
            }
            // A balancer may lead to a dead member first.
            (_, 1) if changes_nothing => USUAL_PASSES + 1,
            // An outage must leave enough of the budget for its end.
            (Purpose::Background | Purpose::Prefetch, _) => 1,
            _ => USUAL_PASSES,
        };
        let limit = passes * order.len();
        Self { order, limit, beside: changes_nothing, freshness, begun: 0, next: Some(Instant::now()) }
    }

    /// When the next attempt begins, if there is one. None begins so late that its failure would say nothing: the caller
    /// gets the answer that there is, in time. `wait` is how long the budget would let it wait: none begins beside
    /// another one to wait there, since that one may not be sent yet, either.
    fn due(&self, running: usize, deadline: Deadline, wait: Duration) -> Option<Instant> {
        let free = running < if self.beside { MAX_RUNNING } else { 1 };
        let least = if self.begun == 0 { Duration::ZERO } else { MIN_SHARE };
        let earliest = Instant::now() + if running == 0 { Duration::ZERO } else { wait };
        self.next
            .map(|at| at.max(earliest))
            .filter(|at| free && self.begun < self.limit && *at + least < deadline.instant())
    }

    /// Begins an attempt: at which address, for how long, and how new its answer must be.
    fn begin(&mut self, deadline: Deadline) -> (usize, Deadline, Freshness) {
        let count = self.order.len().max(1);
        let (pass, position) = (self.begun / count, self.begun % count);
        let index = self.order.get(position).copied().unwrap_or_default();
        self.begun += 1;
        if self.beside {
            let share = (deadline.remaining() / 4).clamp(MIN_SHARE, MAX_SHARE);
            self.next = Some(Instant::now() + share);
        } else {
            self.next = None;
        }
        // Where the active server cannot be reached, a standby may serve alone: every second pass lets it.
        let freshness = if pass % 2 == 0 { self.freshness } else { Freshness::Any };
        let left = u32::try_from(count - position).unwrap_or(1);
        let share = (deadline.remaining() / left).max(MIN_SHARE);
        (index, if self.beside { deadline } else { deadline.share(share) }, freshness)
    }

    /// An attempt failed: the next address is tried at once, and the first one again after a pause.
    fn failed(&mut self, error: &KeyServiceError, deadline: Deadline) {
        let now = Instant::now();
        let count = self.order.len().max(1);
        if !self.begun.is_multiple_of(count) {
            self.next = Some(now);
            return;
        }
        let after = error.retry_after();
        if after.is_some() || error.kind() == ErrorKind::Throttled {
            let pause = after.unwrap_or(THROTTLED_PAUSE);
            // The agent's own checks report the answer, and have intervals of their own: `Retry-After` delays none.
            let own = matches!(deadline.purpose(), Purpose::Background | Purpose::Prefetch);
            let ends = own && after.is_some() || pause * 2 > deadline.remaining();
            self.limit = self.limit.min(self.begun + if ends { 0 } else { count });
            self.next = Some(now + pause.mul_f64(1.0 + jitter() / 2.0));
            return;
        }
        let pass = u32::try_from(self.begun / count).unwrap_or(u32::MAX).saturating_sub(1);
        let limits = if count == 1 { PAUSE } else { PAUSE_OF_SEVERAL };
        let at = now + doubled(limits, pass).mul_f64(1.0 + jitter() / 2.0);
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }
}

impl Client {
    /// Sends the request to one address after the other, the preferred one first, until one answers or the deadline
    /// passes.
    pub(super) async fn call(&self, request: &Request<'_>, deadline: Deadline) -> Result<Answer, CallError> {
        let freshness = Freshness::of(request.call, deadline.purpose());
        self.call_in(self.order(), freshness, request, deadline).await
    }

    /// The same, with these addresses in this order.
    pub(super) async fn call_in(
        &self,
        order: Vec<usize>,
        freshness: Freshness,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<Answer, CallError> {
        let mut plan = Plan::new(order, request.call, freshness, deadline.purpose());
        let (mut running, mut hedged, mut last) = (Vec::new(), None, None);
        loop {
            let due = plan.due(running.len(), deadline, self.budget.wait(deadline.purpose()));
            if due.is_none() && running.is_empty() {
                break;
            }
            let hedges = !running.is_empty() && hedged.is_none();
            let (freshness, result) = tokio::select! {
                biased;
                ended = first_ended(&mut running), if !running.is_empty() => ended,
                permit = self.turn(due, hedges), if due.is_some() => {
                    hedged = hedged.or(permit);
                    let (index, until, freshness) = plan.begin(deadline);
                    let attempt = Box::pin(async move {
                        (freshness, self.attempt_at(index, freshness, request, until).await)
                    });
                    running.push(Running { address: index, since: Instant::now(), attempt });
                    continue;
                }
            };
            match result {
                Ok(answer) => {
                    self.note_slow(&running, answer.address);
                    return Ok(answer);
                }
                Err(CallError::Refused(refusal))
                    if refusal.class() == Class::OwnFault
                        && freshness == Freshness::Active
                        && self.replication.refuse_beyond_all() =>
                {
                    // It is tried again as if this one had not been: with the newest index that servers have told.
                    (plan.next, plan.begun) = (Some(Instant::now()), plan.begun.saturating_sub(1));
                }
                Err(CallError::Failed(error)) if error.kind().may_fail_over() => {
                    plan.failed(&error, deadline);
                    last = Some(error);
                }
                // The agent's own limit: the attempts that run may still be answered.
                Err(CallError::Failed(error))
                    if error.kind() == ErrorKind::HeldBack && !running.is_empty() =>
                {
                    plan.limit = plan.begun;
                }
                ended => return ended,
            }
        }
        let error = last.unwrap_or_else(|| not_sent(request, deadline.purpose()));
        Err(if deadline.expired() { deadline_passed(error, request, deadline.purpose()) } else { error }
            .into())
    }

    /// Waits until the next attempt may begin, and when it `hedges`, until few enough other calls do.
    async fn turn(&self, due: Option<Instant>, hedges: bool) -> Option<SemaphorePermit<'_>> {
        until(due).await;
        // Nobody closes it.
        if hedges { self.hedged.acquire().await.ok() } else { None }
    }

    /// One attempt at one address, with the index of what its answer must be as new as.
    pub(super) async fn attempt_at(
        &self,
        index: usize,
        freshness: Freshness,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<Answer, CallError> {
        let replicated = request.token.and_then(|_| self.replication.index(freshness));
        let request = Request { index: replicated.as_deref(), ..request.clone() };
        self.once(index, &request, deadline).await
    }

    /// Records which other addresses had their share of the time, and have not answered.
    fn note_slow<F>(&self, running: &[Running<F>], answered: usize) {
        for attempt in running.iter().filter(|attempt| attempt.address != answered) {
            let slow = attempt.since.elapsed() >= MIN_SHARE;
            if let Some(address) = self.addresses.get(attempt.address).filter(|_| slow) {
                address.failed(&classification::timeout(&address.name));
            }
        }
    }

    /// The addresses in the order in which they are tried. Each comes with a function that gives its deadline: a
    /// share of the time that is left, so that an address that hangs leaves time for the next.
    pub(super) fn shares(&self, deadline: Deadline) -> impl Iterator<Item = (usize, impl Fn() -> Deadline)> {
        let order = self.order();
        let count = order.len();
        order.into_iter().enumerate().map(move |(tried, index)| {
            let left = u32::try_from(count - tried).unwrap_or(1).max(1);
            (index, move || deadline.share((deadline.remaining() / left).max(MIN_SHARE)))
        })
    }
}

/// Waits for the first of the running attempts to end, and removes it. They are [`MAX_RUNNING`] at most, and nearly always
/// one: a set that knows which of them to wake costs more than it saves.
async fn first_ended<F: Future>(running: &mut Vec<Running<F>>) -> F::Output {
    poll_fn(|context| {
        let ended = running.iter_mut().enumerate().find_map(|(number, running)| {
            match running.attempt.as_mut().poll(context) {
                Poll::Ready(output) => Some((number, output)),
                Poll::Pending => None,
            }
        });
        match ended {
            Some((number, output)) => {
                drop(running.swap_remove(number));
                Poll::Ready(output)
            }
            None => Poll::Pending,
        }
    })
    .await
}

/// The error of a call of which nothing was sent: there was no time left for it.
pub(super) fn not_sent(request: &Request<'_>, purpose: Purpose) -> KeyServiceError {
    match purpose {
        Purpose::ApiServer => KeyServiceError::deadline("trying the addresses"),
        _ => KeyServiceError::new(
            ErrorKind::HeldBack,
            format!("{} was not sent: a login or another call before it took all the time", request.path),
            "the agent tries it again by itself",
        ),
    }
}

/// The error of a call whose deadline passed. `Unreachable` becomes `Deadline`, with the text of `error` in it.
fn deadline_passed(error: KeyServiceError, request: &Request<'_>, purpose: Purpose) -> KeyServiceError {
    let late = if purpose == Purpose::ApiServer { "within the caller's deadline" } else { "in time" };
    match error.kind() {
        ErrorKind::Unreachable => KeyServiceError::new(
            ErrorKind::Deadline,
            format!("{} was not answered {late}: {error}", request.path),
            error.remedy().to_owned(),
        ),
        _ => error,
    }
}

#[cfg(test)]
#[path = "attempts_tests.rs"]
mod tests;
