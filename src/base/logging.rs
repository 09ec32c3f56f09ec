//! The session's log: records from Rust, from Python's root logger and from Python's stdout and stderr, in order of time.
//!
//! A record of `pipeline.log` is one line: time (UTC), level, origin, text. Further lines of the text are indented, and control characters
//! are escaped, so that no text can forge a record. Secrets are redacted (`secrets/`).
//!
//! The `log` crate's logger can be set only once per process, but a process may run many sessions. So the logger stays, and the file
//! behind it changes.

use std::io::LineWriter;
use std::path::Path;
use std::sync::{Mutex, Once, PoisonError, RwLock};

use anyhow::Result;
use log::{Level, LevelFilter, Log, Metadata, Record};
use simplelog::{ConfigBuilder, LevelPadding, WriteLogger, format_description};

use crate::base::log_file::LogFile;
use crate::base::printable::printable_line;
use crate::base::secrets::redact;

type Console = Box<dyn Fn(&Record, Shown) + Send + Sync>;

/// Which consoles show a record, besides the log file, which has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    Always,
    /// Not a terminal: it shows the same as a bar or a heading.
    OffTerminal,
    /// Only a console with debug lines: what libraries say.
    Verbose,
}

static FILE: Mutex<Option<Box<dyn Log>>> = Mutex::new(None);
static CONSOLE: RwLock<Option<Console>> = RwLock::new(None);

macro_rules! debug { ($($text:tt)+) => { $crate::base::logging::emit(log::Level::Debug, module_path!(), &format!($($text)+)) } }
macro_rules! info { ($($text:tt)+) => { $crate::base::logging::emit(log::Level::Info, module_path!(), &format!($($text)+)) } }
macro_rules! warning { ($($text:tt)+) => { $crate::base::logging::emit(log::Level::Warn, module_path!(), &format!($($text)+)) } }
macro_rules! failure { ($($text:tt)+) => { $crate::base::logging::emit(log::Level::Error, module_path!(), &format!($($text)+)) } }

/// Writes records to `path` until the returned guard is dropped.
pub fn attach(path: &Path) -> Result<Attached> {
    install();
    *lock() = Some(file_log(LogFile::open(path)?));
    Ok(Attached(()))
}

/// A log beside that of the process's step, for what runs beside steps.
pub struct SeparateLog(Box<dyn Log>);

impl SeparateLog {
    pub fn open(path: &Path) -> Result<SeparateLog> {
        install();
        Ok(SeparateLog(file_log(LogFile::open(path)?)))
    }

    /// Writes one record to this log, and to the consoles as `emit_to` does.
    pub fn emit(&self, level: Level, origin: &str, text: &str, shown: Shown) {
        record(level, origin, text, |record| {
            self.0.log(record);
            show(record, shown);
        });
    }
}

/// Adds one record to the log `path`, and to nothing else. Another process may be writing to it, so its limit is not looked at.
pub fn append(path: &Path, level: Level, origin: &str, text: &str) -> Result<()> {
    let text = one_record(text);
    file_log(LogFile::with_limit(path, u64::MAX)?).log(&Record::builder().level(level).target(origin).args(format_args!("{text}")).build());
    Ok(())
}

fn file_log(file: LogFile) -> Box<dyn Log> {
    let config = ConfigBuilder::new()
        .set_time_format_custom(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"))
        .set_time_level(LevelFilter::Error)
        .set_target_level(LevelFilter::Error)
        .set_thread_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .set_level_padding(LevelPadding::Right)
        .build();
    // Line buffering: a record is written to the file at once.
    WriteLogger::new(LevelFilter::Debug, config, LineWriter::with_capacity(1 << 16, file))
}

/// Closes the log file on drop.
#[derive(Debug)]
pub struct Attached(());

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(file) = lock().take() {
            file.flush();
        }
    }
}

/// Sets the function that also shows records; `None` removes it.
pub fn set_console(console: Option<Console>) {
    install();
    *CONSOLE.write().unwrap_or_else(PoisonError::into_inner) = console;
}

/// Writes one record to the session's file, to the console, and to the host's own `log` logger if it has one.
pub fn emit(level: Level, origin: &str, text: &str) {
    emit_to(level, origin, text, Shown::Always);
}

/// Like `emit`, for the consoles of `shown`.
pub fn emit_to(level: Level, origin: &str, text: &str, shown: Shown) {
    record(level, origin, text, |record| {
        if let Some(file) = lock().as_ref() {
            file.log(record);
        }
        show(record, shown);
    });
}

/// Makes a record, and gives it to the host's own logger too.
fn record(level: Level, origin: &str, text: &str, write: impl FnOnce(&Record)) {
    let (origin, text) = (printable_line(origin), one_record(text));
    let arguments = format_args!("{text}");
    write(&Record::builder().level(level).target(&origin).args(arguments).build());
    if !is_installed() {
        log::logger().log(&Record::builder().level(level).target(&origin).args(arguments).build());
    }
}

/// The texts of [`emit_once`] in the scopes that are open, and the number of these.
static ONCE: Mutex<(usize, Vec<String>)> = Mutex::new((0, Vec::new()));

/// While it lives, [`emit_once`] emits each text once. Scopes may be nested.
#[derive(Debug)]
pub struct OnceScope(());

/// Opens a scope of [`emit_once`]: a step, or a command.
pub fn once_scope() -> OnceScope {
    ONCE.lock().unwrap_or_else(PoisonError::into_inner).0 += 1;
    OnceScope(())
}

impl Drop for OnceScope {
    fn drop(&mut self) {
        let mut once = ONCE.lock().unwrap_or_else(PoisonError::into_inner);
        once.0 -= 1;
        if once.0 == 0 {
            once.1.clear();
        }
    }
}

/// Like `emit`, for what is found again with each data set or model: `label` and `text`, unless this text was emitted in the scope.
pub fn emit_once(level: Level, origin: &str, label: &str, text: &str) {
    let mut once = ONCE.lock().unwrap_or_else(PoisonError::into_inner);
    let known = once.1.iter().any(|known| known == text);
    if once.0 > 0 && !known {
        once.1.push(text.to_string());
    }
    drop(once);
    if !known {
        emit(level, origin, &format!("{label}{text}"));
    }
}

fn show(record: &Record, shown: Shown) {
    if let Some(console) = CONSOLE.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
        console(record, shown);
    }
}

/// The text without secrets, and with further lines indented, so that every record starts with its time at the start of a line.
fn one_record(text: &str) -> String {
    redact(text).trim_end().lines().map(printable_line).collect::<Vec<_>>().join("\n    ")
}

fn lock() -> std::sync::MutexGuard<'static, Option<Box<dyn Log>>> {
    FILE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Receives the records of crates that use the `log` macros, unless the host has set its own logger.
struct Facade;

impl Log for Facade {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.level() <= Level::Debug
    }

    fn log(&self, record: &Record) {
        if self.enabled(record.metadata()) {
            let shown = if record.level() <= Level::Warn { Shown::Always } else { Shown::Verbose };
            emit_to(record.level(), record.target(), &record.args().to_string(), shown);
        }
    }

    fn flush(&self) {}
}

static INSTALLED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if log::set_logger(&Facade).is_ok() {
            log::set_max_level(LevelFilter::Debug);
            INSTALLED.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    });
}

fn is_installed() -> bool {
    INSTALLED.load(std::sync::atomic::Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    // A single test, because the log file is global to the process.
    #[test]
    fn a_record_is_a_line_further_lines_are_indented_and_the_file_can_change() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = ["a.log", "b.log"].map(|name| folder.path().join(name));
        let attached = attach(&first).unwrap();
        emit(Level::Info, "python", "one\ntwo\n");
        drop(attached);
        emit(Level::Info, "python", "without a file");
        let attached = attach(&second).unwrap();
        log::debug!(target: "a_crate", "through the facade");
        drop(attached);
        let text = std::fs::read_to_string(first).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].ends_with("[INFO ] python: one") || lines[0].contains("[INFO") && lines[0].ends_with("python: one"), "{text}");
        assert_eq!(lines[1], "    two");
        assert!(lines[0].starts_with("20"), "a record starts with its time: {text}");
        let text = std::fs::read_to_string(second).unwrap();
        assert!(text.contains("through the facade") && text.lines().count() == 1, "{text}");

        let again = folder.path().join("once.log");
        let attached = attach(&again).unwrap();
        for _ in 0..2 {
            let _outer = once_scope();
            drop(once_scope());
            emit_once(Level::Warn, "a", "", "found");
            emit_once(Level::Warn, "a", "evaluation data: ", "found");
            emit_once(Level::Warn, "a", "evaluation data: ", "found too");
        }
        drop(attached);
        let text = std::fs::read_to_string(again).unwrap();
        let said: Vec<&str> = text.lines().map(|line| line.split_once("a: ").unwrap().1).collect();
        assert_eq!(said, ["found", "evaluation data: found too", "found", "evaluation data: found too"]);

        let third = folder.path().join("c.log");
        let attached = attach(&third).unwrap();
        let forged = "x\r2026-01-01T00:00:00.000Z [ERROR] a: b\u{2028}2026-01-01 [ERROR] c\x1b[2J\n2026-01-01T00:00:00.000Z [ERROR] d";
        emit(Level::Info, "a\n2026-01-01T00:00:00.000Z [ERROR] e", forged);
        log::info!(target: "a_crate", "{forged}");
        drop(attached);
        let text = std::fs::read_to_string(third).unwrap();
        let records = text.split(['\n', '\r', '\u{2028}']).filter(|line| line.starts_with("20")).count();
        assert_eq!(records, 2, "{text}");
        assert!(!text.contains('\x1b') && text.contains(r"\x1b[2J"), "{text}");
    }
}
