//! Progress of a step. The core reports it; the command line displays it.

use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use log::Level;

use crate::base::logging;
use crate::base::logging::Shown;
use crate::base::printable::{printable, printable_line};

/// One progress report.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    pub done: u64,
    pub total: u64,
    pub text: &'a str,
}

/// Displays progress and generated text.
pub trait Show: Send + Sync {
    /// `title` names what progresses: a step, or an operation of it.
    fn update(&self, title: &str, update: Update<'_>);
    /// Shows what happens before there is progress to measure, such as `loading torch`. An empty text removes it.
    fn status(&self, text: &str);
    /// Shows generated text without adding a newline.
    fn stream(&self, text: &str);
    /// Removes what shows progress.
    fn clear(&self);
    /// The step or the operation has ended.
    fn end(&self) {
        self.clear();
    }
}

static SHOW: RwLock<Option<Box<dyn Show>>> = RwLock::new(None);

/// Sets the display; `None` removes it.
pub fn set_show(show: Option<Box<dyn Show>>) {
    *SHOW.write().unwrap_or_else(PoisonError::into_inner) = show;
}

/// Reports progress to the display at once, and to the log every few seconds and at the end.
#[derive(Debug)]
pub struct Progress {
    step: String,
    logged: Instant,
}

const LOG_EVERY: Duration = Duration::from_secs(5);

impl Progress {
    /// Progress of the step `step`.
    pub fn new(step: &str) -> Progress {
        Progress { step: step.to_string(), logged: Instant::now() }
    }

    pub fn report(&mut self, update: Update<'_>) {
        let text = printable_line(update.text);
        let update = Update { text: &text, ..update };
        with_show(|show| show.update(&self.step, update));
        if self.logged.elapsed() >= LOG_EVERY || update.done == update.total {
            self.logged = Instant::now();
            let text = format!("{} {}/{} {}", self.step, update.done, update.total, update.text);
            logging::emit_to(Level::Info, module_path!(), &text, Shown::OffTerminal);
        }
    }
}

/// Progress through the bytes of files. Shown only after the first second, and then to the end.
#[derive(Debug)]
pub struct Bytes {
    progress: Progress,
    started: Instant,
    shown: Instant,
    is_shown: bool,
}

impl Bytes {
    /// Progress of the operation `what`.
    pub fn new(what: &str) -> Bytes {
        Bytes { progress: Progress::new(what), started: Instant::now(), shown: Instant::now(), is_shown: false }
    }

    /// `done` of `total` bytes.
    pub fn report(&mut self, done: u64, total: u64) {
        let seconds = self.started.elapsed().as_secs_f64();
        let ends = self.is_shown && done == total;
        if !ends && (seconds < 1.0 || self.shown.elapsed() < Duration::from_millis(200)) {
            return;
        }
        self.is_shown = true;
        self.shown = Instant::now();
        let rate = done as f64 / seconds;
        let left = total.saturating_sub(done) as f64 / rate.max(1.0);
        let text = format!("MB, {:.0} MB/s, {left:.0} s left", rate / 1e6);
        self.progress.report(Update { done: done / 1_000_000, total: total.div_ceil(1_000_000), text: &text });
    }
}

/// Shows what is being done. An empty text removes it.
pub fn status(text: &str) {
    with_show(|show| show.status(text));
}

/// Shows generated text.
pub fn stream(text: &str) {
    with_show(|show| show.stream(&printable(text)));
}

/// Removes the progress bar.
pub fn clear() {
    with_show(|show| show.clear());
}

/// Says that the step or the operation has ended, which removes the progress bar of a terminal.
pub fn end() {
    with_show(|show| show.end());
}

fn with_show(act: impl FnOnce(&dyn Show)) {
    if let Some(show) = SHOW.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
        act(show.as_ref());
    }
}
