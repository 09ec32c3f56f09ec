//! Output during a run: log lines on stderr and, on a terminal, a progress bar below them.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, OnceLock, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use log::{Level, LevelFilter, Log, Record};
use simplelog::{ColorChoice, ConfigBuilder, LevelPadding, TermLogger, TerminalMode};

use crate::base::progress::{Show, Update};
use crate::base::{logging, progress};
use crate::cli::global::GlobalArgs;

static BARS: OnceLock<MultiProgress> = OnceLock::new();
static CONFIGURED: Mutex<bool> = Mutex::new(false);

fn bars() -> &'static MultiProgress {
    BARS.get_or_init(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(8)))
}

/// Configures the console for a command. `stream`: print answers while they are generated.
pub(crate) fn begin(options: &GlobalArgs, stream: bool) {
    let level = match (options.quiet, options.verbose) {
        (true, _) => LevelFilter::Warn,
        (_, true) => LevelFilter::Debug,
        _ => LevelFilter::Info,
    };
    configure(level, !options.quiet, stream && !options.json && !options.quiet);
}

pub(crate) fn end() {
    progress::clear();
}

/// Turns log lines and progress on stderr on or off, for programs that use the library.
pub fn set_console(on: bool) {
    if on {
        configure(LevelFilter::Info, true, std::io::stdout().is_terminal());
    } else {
        *CONFIGURED.lock().unwrap_or_else(PoisonError::into_inner) = true;
        logging::set_console(None);
        progress::set_show(None);
    }
}

/// Like `set_console(true)`, unless the program has called `set_console` already.
pub(crate) fn show_by_default() {
    if !*CONFIGURED.lock().unwrap_or_else(PoisonError::into_inner) {
        set_console(true);
    }
}

/// Prints a heading between steps.
pub(crate) fn heading(text: &str) {
    let color = colors();
    let line = if color { format!("\x1b[1m{text}\x1b[0m\n") } else { format!("{text}\n") };
    bars().suspend(|| drop(std::io::stderr().write_all(line.as_bytes())));
}

pub(crate) fn colors() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

fn configure(level: LevelFilter, bar: bool, stream: bool) {
    *CONFIGURED.lock().unwrap_or_else(PoisonError::into_inner) = true;
    let config = ConfigBuilder::new()
        .set_time_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Off)
        .set_thread_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .set_level_padding(LevelPadding::Right)
        .build();
    let color = if colors() { ColorChoice::Always } else { ColorChoice::Never };
    let terminal = TermLogger::new(level, config, TerminalMode::Stderr, color);
    let on_terminal = std::io::stderr().is_terminal();
    logging::set_console(Some(Box::new(move |record: &Record| {
        // The progress bar shows it already.
        let repeated = on_terminal && bar && record.target() == progress::ORIGIN;
        // The caller of the step prints the whole failure.
        let failure = record.level() == Level::Error && record.target() == crate::step::RUN_ORIGIN;
        if record.level() <= level && !repeated && !failure {
            bars().suspend(|| terminal.log(record));
        }
    })));
    progress::set_show(Some(Box::new(TerminalProgress { bar: bar && on_terminal, stream, current: Mutex::new(None) })));
}

struct TerminalProgress {
    bar: bool,
    stream: bool,
    current: Mutex<Option<ProgressBar>>,
}

impl Show for TerminalProgress {
    fn update(&self, update: Update<'_>) {
        if !self.bar {
            return;
        }
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = current.get_or_insert_with(|| {
            let bar = bars().add(ProgressBar::new(update.total));
            if let Ok(style) = ProgressStyle::with_template("{bar:32} {pos}/{len} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        bar.set_length(update.total);
        bar.set_position(update.done);
        bar.set_message(update.text.to_string());
    }

    fn stream(&self, text: &str) {
        if self.stream {
            bars().suspend(|| {
                let mut out = std::io::stdout().lock();
                drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
            });
        }
    }

    fn clear(&self) {
        if let Some(bar) = self.current.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }
}
