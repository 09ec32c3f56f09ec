//! The process's stdout and stderr, and their capture while a step runs: what child processes, C's `printf` and `os.write(1, …)` write
//! becomes records of the log.
//!
//! Descriptors 1 and 2 are then pipes that a thread reads, and what the program itself shows goes to copies of the real ones. If a
//! library ends the process by a fatal signal, the rest of the pipes is written to the real stderr first.

use std::cell::UnsafeCell;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::thread::JoinHandle;

use log::Level;

use crate::base::logging::{self, Shown};
use crate::base::threads;

const ORIGINS: [&str; 2] = ["stdout", "stderr"];

/// The copies of the real stdout and stderr during a capture, otherwise -1.
static REAL: [AtomicI32; 2] = [const { AtomicI32::new(-1) }; 2];
/// The reading ends of the pipes during a capture, otherwise -1.
static PIPES: [AtomicI32; 2] = [const { AtomicI32::new(-1) }; 2];
/// The line of each pipe that has no end yet. Locked while its reader reads and makes records.
static UNFINISHED: [Mutex<Vec<u8>>; 2] = [const { Mutex::new(Vec::new()) }; 2];
/// Bytes of a line that has no end, after which it becomes a record all the same.
const LONGEST_LINE: usize = 1 << 16;
static FORKS: Once = Once::new();
static ALLOWED: AtomicBool = AtomicBool::new(false);
/// Only one capture at a time.
static CAPTURED: Mutex<()> = Mutex::new(());

/// The real stdout or stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Terminal {
    Stdout,
    Stderr,
}

impl Terminal {
    pub(crate) fn descriptor(self) -> RawFd {
        match REAL[self as usize].load(Ordering::SeqCst) {
            -1 => self as RawFd + 1,
            real => real,
        }
    }

    pub(crate) fn is_terminal(self) -> bool {
        // SAFETY: only asks about a descriptor.
        unsafe { libc::isatty(self.descriptor()) == 1 }
    }
}

impl AsRawFd for Terminal {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor()
    }
}

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // SAFETY: the memory is ours, and the descriptor may be any number.
        let written = unsafe { libc::write(self.descriptor(), bytes.as_ptr().cast(), bytes.len()) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lets steps capture descriptors 1 and 2, or not. They are this process's only in its command line; a host program decides itself.
pub(crate) fn allow_capture(allowed: bool) {
    ALLOWED.store(allowed, Ordering::SeqCst);
}

/// Captures descriptors 1 and 2 until it is dropped.
#[must_use]
pub(crate) struct Capture {
    readers: Vec<JoinHandle<()>>,
    /// Written to, to end the readers.
    stop: Option<OwnedFd>,
    process: u32,
    _only: std::sync::MutexGuard<'static, ()>,
}

/// Signals by which a fault in a library ends the process.
const FATAL: [i32; 5] = [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];

impl Capture {
    /// `None` if steps may not capture, if one does already, or if the system has no descriptors left: then output stays where it goes.
    pub(crate) fn begin() -> Option<Capture> {
        if !ALLOWED.load(Ordering::SeqCst) {
            return None;
        }
        let only = CAPTURED.try_lock().ok()?;
        let (stopped, stop) = pipe().ok()?;
        FORKS.call_once(|| {
            // SAFETY: the function only closes descriptors and stores numbers.
            unsafe { libc::pthread_atfork(None, None, Some(in_forked_child)) };
        });
        handle_fatal();
        let mut capture = Capture { readers: Vec::new(), stop: Some(stop), process: std::process::id(), _only: only };
        for (at, origin) in ORIGINS.into_iter().enumerate() {
            let (reader, writer) = pipe().ok()?;
            let stopped = stopped.try_clone().ok()?;
            flush_c();
            // SAFETY: descriptors of this process; the copy is closed by `drop`.
            let real = unsafe { libc::fcntl(at as RawFd + 1, libc::F_DUPFD_CLOEXEC, 10) };
            if real < 0 {
                return None;
            }
            REAL[at].store(real, Ordering::SeqCst);
            PIPES[at].store(reader.as_raw_fd(), Ordering::SeqCst);
            // SAFETY: as above.
            unsafe { libc::dup2(writer.as_raw_fd(), at as RawFd + 1) };
            capture.readers.push(threads::spawn(move || read(reader, &stopped, origin, &UNFINISHED[at])).ok()?);
        }
        Some(capture)
    }
}

/// A process that a script forks keeps the pipes as its output, but not the real one: it may live longer, and who waits for the real
/// output to end would wait for it.
extern "C" fn in_forked_child() {
    for descriptor in REAL.iter().chain(&PIPES) {
        let descriptor = descriptor.swap(-1, Ordering::SeqCst);
        if descriptor >= 0 {
            // SAFETY: the child's copy, which only the capture of its parent uses.
            unsafe { libc::close(descriptor) };
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // The readers are threads of the process that was forked.
            self.readers.drain(..).for_each(std::mem::forget);
            return;
        }
        flush_c();
        restore_fatal();
        for (at, real) in REAL.iter().enumerate() {
            let real = real.swap(-1, Ordering::SeqCst);
            if real >= 0 {
                // SAFETY: the copy that `begin` made. Nothing writes to it any more than this.
                unsafe {
                    libc::dup2(real, at as RawFd + 1);
                    libc::close(real);
                }
            }
            PIPES[at].store(-1, Ordering::SeqCst);
        }
        if let Some(stop) = self.stop.take() {
            // A byte, which nobody takes: a process that was forked may hold this pipe too.
            drop(std::fs::File::from(stop).write(&[0]));
        }
        for reader in self.readers.drain(..) {
            drop(reader.join());
        }
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: the system writes two descriptors, which nothing else owns.
    unsafe {
        if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::fcntl(ends[0], libc::F_SETFL, libc::O_NONBLOCK);
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

/// Writes out what C's stdio holds.
fn flush_c() {
    // SAFETY: a null pointer means all streams.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

/// Makes records of the lines of a pipe, until nothing can be written to it any more, or until `stopped` can be read and it is empty: a
/// process that a script left behind may hold it.
fn read(reader: OwnedFd, stopped: &OwnedFd, origin: &str, unfinished: &Mutex<Vec<u8>>) {
    let mut pipe = std::fs::File::from(reader);
    let mut bytes = [0; 1 << 14];
    loop {
        let mut line = unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        match pipe.read(&mut bytes) {
            Ok(0) => break,
            Ok(size) => take(&mut line, &bytes[..size], origin),
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                drop(line);
                let watched = |fd: RawFd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
                let mut both = [watched(pipe.as_raw_fd()), watched(stopped.as_raw_fd())];
                // SAFETY: the array is ours and has two elements.
                unsafe { libc::poll(both.as_mut_ptr(), 2, -1) };
                if both[1].revents != 0 && both[0].revents & libc::POLLIN == 0 {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    end_line(&mut unfinished.lock().unwrap_or_else(PoisonError::into_inner), origin);
}

/// Adds bytes to the unfinished line, and makes a record of each that ends.
fn take(line: &mut Vec<u8>, bytes: &[u8], origin: &str) {
    for part in bytes.split_inclusive(|byte| *byte == b'\n') {
        line.extend_from_slice(part);
        if part.ends_with(b"\n") || line.len() >= LONGEST_LINE {
            end_line(line, origin);
        }
    }
}

fn end_line(line: &mut Vec<u8>, origin: &str) {
    let text = String::from_utf8_lossy(line);
    // A bar that was drawn over itself: its last state.
    let text = text.trim_end().rsplit('\r').next().unwrap_or_default();
    if !text.trim().is_empty() {
        logging::emit_to(Level::Info, origin, text, Shown::Always);
    }
    line.clear();
}

/// The actions of fatal signals before the capture.
struct Earlier(UnsafeCell<[MaybeUninit<libc::sigaction>; FATAL.len()]>);

// SAFETY: it is written by the one capture before its handlers are installed, and read by them and by that capture's end.
unsafe impl Sync for Earlier {}

static EARLIER: Earlier = Earlier(UnsafeCell::new([MaybeUninit::zeroed(); FATAL.len()]));

/// Installs the handlers of fatal signals.
fn handle_fatal() {
    for (at, signal) in FATAL.into_iter().enumerate() {
        // SAFETY: plain data; the handler only reads, writes and raises. See also `Earlier`.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = at_fatal as *const () as libc::sighandler_t;
            action.sa_flags = libc::SA_ONSTACK;
            libc::sigaction(signal, std::ptr::null(), (*EARLIER.0.get())[at].as_mut_ptr());
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

fn restore_fatal() {
    for (at, signal) in FATAL.into_iter().enumerate() {
        // SAFETY: `handle_fatal` has filled it.
        unsafe { libc::sigaction(signal, (*EARLIER.0.get())[at].as_ptr(), std::ptr::null_mut()) };
    }
}

/// Writes what has not become a record to the real stderr, and lets the earlier action end the process.
extern "C" fn at_fatal(signal: i32) {
    let show = |bytes: &[u8]| drop(Terminal::Stderr.write(bytes));
    let mut bytes = [0u8; 4096];
    for (pipe, unfinished) in PIPES.iter().zip(&UNFINISHED) {
        // The reader may be making a record: it gets a second, unless the fault is its own.
        for _ in 0..1000 {
            if let Ok(line) = unfinished.try_lock() {
                show(&line);
                // SAFETY: reads into memory of this function, as a signal handler may.
                while let Ok(size @ 1..) =
                    usize::try_from(unsafe { libc::read(pipe.load(Ordering::SeqCst), bytes.as_mut_ptr().cast(), bytes.len()) })
                {
                    show(&bytes[..size]);
                }
                break;
            }
            // SAFETY: only waits.
            unsafe { libc::usleep(1000) };
        }
    }
    restore_fatal();
    // SAFETY: the earlier action receives it when this handler returns.
    unsafe { libc::raise(signal) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_records_and_the_rest_waits() {
        let mut line = Vec::new();
        take(&mut line, b"one\ntw", "test");
        assert_eq!(line, b"tw");
        take(&mut line, b"o\n 10%\r 20%", "test");
        assert_eq!(line, b" 10%\r 20%");
        take(&mut line, &vec![b'x'; LONGEST_LINE], "test");
        assert_eq!(line, b"");
    }
}
