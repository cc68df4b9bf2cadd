//! The progress of a run: a bar on a terminal, lines elsewhere.

use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::exit::error_line;
use crate::display::{ago, fit};
use crate::rewrite::Progress;

/// Time between two lines, where there is no terminal.
const LINES: Duration = Duration::from_secs(10);
/// The same note is not repeated within this time.
const REPEAT: Duration = Duration::from_secs(30);

pub(super) struct Display {
    /// `None`: there is no terminal.
    bar: Option<ProgressBar>,
    state: Mutex<State>,
}

struct State {
    resource: String,
    began: Instant,
    line: Instant,
    expected: u64,
    done: u64,
    note: Option<(String, Instant)>,
}

impl Display {
    pub(super) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = "{prefix} {human_pos}/{human_len} objects, {per_sec}, {eta} left {wide_bar} {msg}";
            let style = ProgressStyle::with_template(template);
            ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr())
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        let now = Instant::now();
        let state =
            State { resource: String::new(), began: now, line: now, expected: 0, done: 0, note: None };
        Self { bar, state: Mutex::new(state) }
    }

    /// Says what is done now.
    pub(super) fn step(&self, text: &str) {
        self.line(text);
    }

    pub(super) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => error_line(text),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    /// `secrets: 1000 of 50000 objects, 200/s, 4m 5s left`
    fn text(&self) -> String {
        let seconds = self.began.elapsed().as_secs().max(1);
        let rate = self.done / seconds;
        let left = self.expected.saturating_sub(self.done);
        let left = match left.checked_div(rate) {
            Some(left) => format!(", {} left", ago(Duration::from_secs(left))),
            None => String::new(),
        };
        format!("{}: {} of {} objects, {rate}/s{left}", self.resource, self.done, self.expected)
    }
}

impl Progress for Display {
    fn begin(&self, resource: &str) {
        self.with(|state| {
            state.resource = fit(resource, 60);
            (state.began, state.line) = (Instant::now(), Instant::now());
            (state.expected, state.done) = (0, 0);
        });
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_length(0);
            bar.set_prefix(resource.to_owned());
            bar.set_message("");
        }
    }

    fn expect(&self, objects: u64) {
        self.with(|state| state.expected += objects);
        if let Some(bar) = &self.bar {
            bar.inc_length(objects);
        }
    }

    fn advance(&self, objects: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(objects);
        }
        let due = self.with(|state| {
            state.done += objects;
            let due = state.line.elapsed() >= LINES;
            due.then(|| {
                state.line = Instant::now();
                state.text()
            })
        });
        if let Some(text) = due.filter(|_| self.bar.is_none()) {
            self.line(&text);
        }
    }

    fn note(&self, text: &str) {
        let text = fit(text, 300);
        let new = self.with(|state| {
            let known = state.note.as_ref().is_some_and(|(last, at)| *last == text && at.elapsed() < REPEAT);
            if !known {
                state.note = Some((text.clone(), Instant::now()));
            }
            !known
        });
        if new {
            self.line(&text);
        }
    }
}
