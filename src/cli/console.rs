//! The console of a run: log lines on stderr, and what `display` draws on a terminal.
//!
//! A terminal shows the lines themselves, without what a bar or heading shows too and without messages of libraries. Elsewhere each line
//! has its level in front, as in the log.

use std::io::{LineWriter, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use log::{Level, LevelFilter, Log, Record};
use simplelog::{ConfigBuilder, LevelPadding, WriteLogger};

use crate::base::logging::Shown;
use crate::base::terminal::Terminal;
use crate::base::{logging, progress, terminal};
use crate::cli::display::{Display, print_above};
use crate::cli::global::GlobalArgs;
use crate::cli::text::{Style, columns, visible};
use crate::cli::{output, wrap};

static CONFIGURED: Mutex<bool> = Mutex::new(false);

/// Whether only warnings, errors and the result are shown.
static IS_QUIET: AtomicBool = AtomicBool::new(false);

/// Configures the console for a command. `stream`: print answers while they are generated.
pub(crate) fn begin(options: &GlobalArgs, stream: bool) {
    let level = match (options.quiet, options.verbose) {
        (true, _) => LevelFilter::Warn,
        (_, true) => LevelFilter::Debug,
        _ => LevelFilter::Info,
    };
    IS_QUIET.store(options.quiet, Ordering::Relaxed);
    configure(level, !options.quiet, stream && !options.json && !options.quiet);
}

pub(crate) fn end() {
    progress::clear();
}

/// Turns log lines and progress on stderr on or off, for programs that use the library.
pub fn set_console(on: bool) {
    if on {
        configure(LevelFilter::Info, true, Terminal::Stdout.is_terminal());
    } else {
        *configured() = true;
        logging::set_console(None);
        progress::set_show(None);
    }
}

/// Lets steps capture descriptors 1 and 2, or not, for programs that use the library: what child processes and C's `printf` write while a step
/// runs becomes records of its log. Off by default; the command line turns it on.
pub fn capture_output(on: bool) {
    terminal::allow_capture(on);
}

/// Whether the console is still as it was at the start of the process; from now on it is not.
pub(crate) fn first_use() -> bool {
    !std::mem::replace(&mut *configured(), true)
}

/// Says something beside the result, on a terminal only.
pub(crate) fn note(text: &str) {
    if Terminal::Stderr.is_terminal() && !IS_QUIET.load(Ordering::Relaxed) {
        let line = Style::of_stderr().dim(&output::at_stderr_s_width(text));
        print_above(|| drop(writeln!(Terminal::Stderr, "{line}")));
    }
}

/// Prints a heading between steps.
pub(crate) fn heading(text: &str) {
    if IS_QUIET.load(Ordering::Relaxed) {
        return;
    }
    let line = Style::of_stderr().bold(&output::at_stderr_s_width(text));
    print_above(|| drop(writeln!(Terminal::Stderr, "{line}")));
}

fn configured() -> std::sync::MutexGuard<'static, bool> {
    CONFIGURED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn configure(level: LevelFilter, bar: bool, stream: bool) {
    *configured() = true;
    let config = ConfigBuilder::new()
        .set_time_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Off)
        .set_thread_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .set_level_padding(LevelPadding::Right)
        .build();
    let plain = WriteLogger::new(level, config, LineWriter::new(Terminal::Stderr));
    let on_terminal = Terminal::Stderr.is_terminal();
    let style = Style::of_stderr();
    logging::set_console(Some(Box::new(move |record: &Record, shown: Shown| {
        let wanted = match shown {
            _ if record.level() > level => false,
            _ if level >= LevelFilter::Debug => true,
            Shown::Always => true,
            Shown::OffTerminal => !(on_terminal && bar),
            Shown::Verbose => false,
        };
        // The caller of the step prints the whole failure.
        let failure = record.level() == Level::Error && record.target() == crate::step::RUN_ORIGIN;
        if wanted && !failure {
            print_above(|| if on_terminal { print(record, style) } else { plain.log(record) });
        }
    })));
    progress::set_show(Some(Box::new(Display::new(bar && on_terminal, stream))));
}

/// Prints a record on a terminal.
fn print(record: &Record, style: Style) {
    let width = columns(Terminal::Stderr).unwrap_or(80);
    // A library's text may hold colours.
    let text = visible(&record.args().to_string());
    let line = match record.level() {
        Level::Error => format!("{}: {text}", style.error("error")),
        Level::Warn => format!("{}: {text}", style.warning("warning")),
        Level::Info => text,
        Level::Debug | Level::Trace => style.dim(&text),
    };
    drop(writeln!(Terminal::Stderr, "{}", wrap::wrapped(&line, width)));
}
