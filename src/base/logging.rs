//! One log for everything: Rust's records, Python's root logger and both of its streams, in the order in which they happened.
//!
//! A line of `pipeline.log` is a record: time (UTC), level, origin, text; further lines of a record are indented. The file changes
//! with the session, so the sink can be switched while a process-wide `log` logger, ours or the host's, stays.

use std::io::LineWriter;
use std::path::Path;
use std::sync::{Mutex, Once, PoisonError, RwLock};

use anyhow::{Context, Result};
use log::{Level, LevelFilter, Log, Metadata, Record};
use simplelog::{ConfigBuilder, LevelPadding, WriteLogger, format_description};

use crate::base::files;

type Console = Box<dyn Fn(&Record) + Send + Sync>;

static FILE: Mutex<Option<Box<dyn Log>>> = Mutex::new(None);
static CONSOLE: RwLock<Option<Console>> = RwLock::new(None);

macro_rules! debug { ($($text:tt)+) => { $crate::base::logging::emit(log::Level::Debug, module_path!(), &format!($($text)+)) } }
macro_rules! info { ($($text:tt)+) => { $crate::base::logging::emit(log::Level::Info, module_path!(), &format!($($text)+)) } }
macro_rules! warning { ($($text:tt)+) => { $crate::base::logging::emit(log::Level::Warn, module_path!(), &format!($($text)+)) } }
macro_rules! failure { ($($text:tt)+) => { $crate::base::logging::emit(log::Level::Error, module_path!(), &format!($($text)+)) } }

/// Records go into `path` until the guard is dropped.
pub fn attach(path: &Path) -> Result<Attached> {
    install();
    let file = files::Writer::append(path).with_context(|| format!("log {} cannot be opened", path.display()))?;
    let config = ConfigBuilder::new()
        .set_time_format_custom(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"))
        .set_time_level(LevelFilter::Error)
        .set_target_level(LevelFilter::Error)
        .set_thread_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .set_level_padding(LevelPadding::Right)
        .build();
    // A record's pieces reach the file together, when its line ends.
    *lock() = Some(WriteLogger::new(LevelFilter::Debug, config, LineWriter::with_capacity(1 << 16, file)));
    Ok(Attached(()))
}

/// Lets go of the log file when dropped.
#[derive(Debug)]
pub struct Attached(());

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(file) = lock().take() {
            file.flush();
        }
    }
}

/// Where records are shown as well; `None` shows them nowhere.
pub fn set_console(console: Option<Console>) {
    install();
    *CONSOLE.write().unwrap_or_else(PoisonError::into_inner) = console;
}

/// Writes one record: to the session's file, to the console, and to the host's own `log` logger where it has one.
pub fn emit(level: Level, origin: &str, text: &str) {
    let text = one_record(text);
    let arguments = format_args!("{text}");
    let record = Record::builder().level(level).target(origin).args(arguments).build();
    write(&record);
    if !ours() {
        log::logger().log(&Record::builder().level(level).target(origin).args(arguments).build());
    }
}

fn write(record: &Record) {
    if let Some(file) = lock().as_ref() {
        file.log(record);
    }
    if let Some(console) = CONSOLE.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
        console(record);
    }
}

/// Lines after the first are indented, so that a line that starts with a time is a record.
fn one_record(text: &str) -> String {
    let text = text.trim_end();
    if text.contains('\n') { text.lines().collect::<Vec<_>>().join("\n    ") } else { text.to_string() }
}

fn lock() -> std::sync::MutexGuard<'static, Option<Box<dyn Log>>> {
    FILE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the records of crates that use the `log` macros, unless the host already does.
struct Facade;

impl Log for Facade {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.level() <= Level::Debug
    }

    fn log(&self, record: &Record) {
        if self.enabled(record.metadata()) {
            write(record);
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

fn ours() -> bool {
    INSTALLED.load(std::sync::atomic::Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test: the sink is one for the process.
    #[test]
    fn a_line_a_record_further_lines_indented_and_the_file_switches() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = ["a.log", "b.log"].map(|name| folder.path().join(name));
        let attached = attach(&first).unwrap();
        emit(Level::Info, "python", "one\ntwo\n");
        drop(attached);
        emit(Level::Info, "python", "to nobody");
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
    }
}
