//! Reads the log of a session: all of it, its end, what is new, or the records that a filter selects. The log may be in two files
//! (`base/log_file.rs`), and may have gigabytes, so its end is read backwards.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use log::Level;
use regex::Regex;

use crate::base::files;
use crate::base::lines_from_end::LinesFromEnd;
use crate::base::log_file::earlier;
use crate::session::existing_session::existing_session;
use crate::session::names::runs_dir;

/// The complete log of a session. Runs directory: PYRUST_NN_RUNS, otherwise `runs`.
pub fn get_status(session: &str) -> Result<String> {
    read_log(&runs_dir(None), session, None)
}

/// The last lines of a session's log, or all of it.
pub fn read_log(runs: &Path, session: &str, lines: Option<usize>) -> Result<String> {
    let path = log_path(runs, session)?;
    let Some(count) = lines else {
        let mut text = String::new();
        for file in [earlier(&path), path] {
            text += &String::from_utf8_lossy(&or_nothing(&file, files::read_own(&file))?);
        }
        return Ok(text);
    };
    let mut last = lines_backwards(&path)?.take(count).collect::<Result<Vec<String>>>()?;
    last.reverse();
    Ok(last.into_iter().map(|line| line + "\n").collect())
}

/// Which records are shown.
#[derive(Clone, Debug)]
pub(crate) struct LogFilter {
    /// The lowest level.
    pub level: Level,
    /// Matches somewhere in the record.
    pub pattern: Option<Regex>,
    /// The earliest time, in the log's format.
    pub since: Option<String>,
}

impl LogFilter {
    /// Whether a record is shown. `first` is its first line, `matched` tells whether the pattern is in any of its lines.
    fn shows(&self, first: &str, matched: bool) -> bool {
        let level = first.split_once(" [").and_then(|(_, rest)| rest.get(..5)?.trim_end().parse::<Level>().ok());
        level.is_none_or(|level| level <= self.level) && matched && self.since.as_deref().is_none_or(|since| first >= since)
    }

    fn matches(&self, line: &str) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| pattern.is_match(line))
    }

    /// The lines of the records that are shown. A record that `text` ends with may go on later: `shown` says whether its lines are shown.
    pub(crate) fn select<'a>(&self, text: &'a str, shown: &mut bool) -> Vec<&'a str> {
        let lines: Vec<&str> = text.lines().collect();
        let mut selected = Vec::new();
        for (i, record) in lines.chunk_by(|_, next| continues(next)).enumerate() {
            if i > 0 || !continues(record[0]) {
                *shown = self.shows(record[0], record.iter().any(|line| self.matches(line)));
            }
            if *shown {
                selected.extend(record);
            }
        }
        selected
    }
}

/// The last lines of a session's log that `filter` selects: whole records, until they have `count` lines.
pub(crate) fn last_records(runs: &Path, session: &str, filter: &LogFilter, count: usize) -> Result<Vec<String>> {
    let mut selected = Vec::new();
    let mut record = Vec::new();
    for line in lines_backwards(&log_path(runs, session)?)? {
        let line = line?;
        let ends_here = !continues(&line);
        // Records are in order of time, except where the clock was set back.
        let too_old = ends_here && filter.since.as_deref().is_some_and(|since| line.starts_with("20") && line.as_str() < since);
        if too_old || selected.len() >= count {
            break;
        }
        record.push(line);
        if ends_here {
            let matched = record.iter().any(|line| filter.matches(line));
            if record.last().is_some_and(|first| filter.shows(first, matched)) {
                selected.append(&mut record);
            }
            record.clear();
        }
    }
    selected.truncate(count);
    selected.reverse();
    Ok(selected)
}

/// Whether a line belongs to the record before it.
fn continues(line: &str) -> bool {
    line.starts_with(' ')
}

/// How far a reader that follows the log has read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogPosition {
    inode: u64,
    bytes: u64,
}

/// The end of the log now.
pub(crate) fn log_end(runs: &Path, session: &str) -> Result<LogPosition> {
    let path = log_path(runs, session)?;
    Ok(std::fs::metadata(&path).map_or(LogPosition { inode: 0, bytes: 0 }, |found| LogPosition { inode: found.ino(), bytes: found.len() }))
}

/// What the log has after `from`, to its last complete line; and the position there.
pub(crate) fn log_after(runs: &Path, session: &str, from: LogPosition) -> Result<(String, LogPosition)> {
    let path = log_path(runs, session)?;
    let mut text = String::new();
    let mut end = from;
    // A log that began anew since then has the rest of its earlier file first.
    for file in [earlier(&path), path] {
        let (new, position) = or_nothing(&file, new_bytes(&file, end).map(Some))?.unwrap_or((Vec::new(), end));
        text += &String::from_utf8_lossy(&new);
        end = position;
    }
    Ok((text, end))
}

/// The complete lines of a file after `from`, if that is a position in it; all if it is another file and a log.
fn new_bytes(path: &Path, from: LogPosition) -> io::Result<(Vec<u8>, LogPosition)> {
    let file = files::open_own(path)?;
    let found = file.metadata()?;
    let is_earlier = path.extension().is_some_and(|end| end == "1");
    if found.ino() != from.inode && is_earlier {
        return Ok((Vec::new(), from));
    }
    let start = if found.ino() == from.inode { from.bytes } else { 0 };
    let mut block = vec![0; found.len().saturating_sub(start) as usize];
    file.read_exact_at(&mut block, start)?;
    block.truncate(memchr::memrchr(b'\n', &block).map_or(0, |end| end + 1));
    let bytes = start + block.len() as u64;
    Ok((block, LogPosition { inode: found.ino(), bytes }))
}

/// The lines of the log from its end.
fn lines_backwards(path: &Path) -> Result<impl Iterator<Item = Result<String>>> {
    let mut files = Vec::new();
    for file in [path.to_path_buf(), earlier(path)] {
        files.extend(or_nothing(&file, LinesFromEnd::open(&file).map(Some))?);
    }
    let path = path.to_path_buf();
    Ok(files.into_iter().flatten().map(move |line| line.with_context(|| format!("{} cannot be read", path.display()))))
}

fn or_nothing<T: Default>(path: &Path, read: io::Result<T>) -> Result<T> {
    match read {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(T::default()),
        read => read.with_context(|| format!("{} cannot be read", path.display())),
    }
}

fn log_path(runs: &Path, session: &str) -> Result<PathBuf> {
    Ok(existing_session(runs, session)?.join("pipeline.log"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn session(log: &str, earlier: Option<&str>) -> tempfile::TempDir {
        let runs = tempfile::tempdir().unwrap();
        fs::create_dir(runs.path().join("demo1")).unwrap();
        fs::write(runs.path().join("demo1/pipeline.log"), log).unwrap();
        if let Some(text) = earlier {
            fs::write(runs.path().join("demo1/pipeline.log.1"), text).unwrap();
        }
        runs
    }

    #[test]
    fn the_last_lines_of_the_log() {
        let runs = session("b\nc\n", Some("0\na\n"));
        for (count, wanted) in [(None, "0\na\nb\nc\n"), (Some(3), "a\nb\nc\n"), (Some(0), ""), (Some(9), "0\na\nb\nc\n")] {
            assert_eq!(read_log(runs.path(), "demo1", count).unwrap(), wanted);
        }
        fs::remove_file(runs.path().join("demo1/pipeline.log")).unwrap();
        fs::remove_file(runs.path().join("demo1/pipeline.log.1")).unwrap();
        assert_eq!(read_log(runs.path(), "demo1", None).unwrap(), "");
        let message = read_log(runs.path(), "demo2", None).unwrap_err().to_string();
        assert!(message.contains("did you mean demo1?"), "{message}");
    }

    const LOG: &str = "2026-01-01T00:00:00.000Z [DEBUG] a: Traceback\n    File x\n2026-01-01T00:00:01.000Z [INFO ] b: one\n2026-01-02T00:00:00.000Z [ERROR] b: failed\n    caused by: c\n2026-01-03T00:00:00.000Z [WARN ] d: two [INFO ] x\n";

    fn filter(level: Level, pattern: Option<&str>, since: Option<&str>) -> LogFilter {
        LogFilter { level, pattern: pattern.map(|text| Regex::new(text).unwrap()), since: since.map(String::from) }
    }

    #[test]
    fn records_are_selected_with_all_their_lines() {
        let lines: Vec<&str> = LOG.lines().collect();
        let cases = [
            (filter(Level::Debug, None, None), vec![0, 1, 2, 3, 4, 5]),
            (filter(Level::Info, None, None), vec![2, 3, 4, 5]),
            (filter(Level::Warn, None, None), vec![3, 4, 5]),
            (filter(Level::Error, None, None), vec![3, 4]),
            (filter(Level::Debug, Some("caused by: c|File"), None), vec![0, 1, 3, 4]),
            (filter(Level::Debug, None, Some("2026-01-02T00:00:00.000Z")), vec![3, 4, 5]),
            (filter(Level::Info, Some("one"), Some("2026-01-02")), vec![]),
        ];
        for place in 0..=lines.len() {
            // Wherever the log began anew.
            let [old, new] = [&lines[..place], &lines[place..]].map(|part| part.iter().map(|line| format!("{line}\n")).collect::<String>());
            let runs = session(&new, Some(&old));
            for (filter, wanted) in &cases {
                let wanted: Vec<&str> = wanted.iter().map(|line| lines[*line]).collect();
                assert_eq!(last_records(runs.path(), "demo1", filter, 99).unwrap(), wanted, "{filter:?}");
                assert_eq!(filter.select(LOG, &mut true), wanted, "{filter:?}");
                let last = &wanted[wanted.len().saturating_sub(1)..];
                assert_eq!(last_records(runs.path(), "demo1", filter, 1).unwrap(), last, "{filter:?}");
            }
        }
    }

    #[test]
    fn a_reader_that_follows_misses_nothing_when_the_log_begins_anew() {
        let runs = session("a\nb\n", None);
        let path = runs.path().join("demo1/pipeline.log");
        let end = log_end(runs.path(), "demo1").unwrap();
        fs::write(&path, "a\nb\nc\nhalf").unwrap();
        let (text, end) = log_after(runs.path(), "demo1", end).unwrap();
        assert_eq!(text, "c\n");
        fs::write(&path, "a\nb\nc\nhalf a line\n").unwrap();
        fs::rename(&path, earlier(&path)).unwrap();
        fs::write(&path, "d\n").unwrap();
        let (text, end) = log_after(runs.path(), "demo1", end).unwrap();
        assert_eq!(text, "half a line\nd\n");
        assert_eq!(log_after(runs.path(), "demo1", end).unwrap().0, "");
    }
}
