//! The journal of the agents of one simulation, as far as the oracle reads it: what it says of wiped local KEKs.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

/// The messages of `KMS_REASON=keys_wiped` since they were last taken.
#[derive(Clone, Default)]
pub(super) struct Journal(Arc<Mutex<Vec<String>>>);

impl Journal {
    /// Reads what is logged on this thread, until the guard is dropped.
    pub(super) fn open(&self) -> DefaultGuard {
        tracing::subscriber::set_default(Registry::default().with(self.clone()))
    }

    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        if line.reason == "keys_wiped" {
            self.0.lock().unwrap().push(line.message);
        }
    }
}

#[derive(Default)]
struct Line {
    message: String,
    reason: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let of = match field.name() {
            "message" => &mut self.message,
            "KMS_REASON" => &mut self.reason,
            _ => return,
        };
        let _written = write!(of, "{value:?}");
    }
}
