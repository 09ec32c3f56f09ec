//! Threads for work that also succeeds with fewer of them: if no thread can be started (a limit of processes, memory), the caller works alone.
//!
//! Short work runs on a pool, because starting a thread takes longer than much of it. A forked process has none of the pool's threads, so it
//! makes a pool of its own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::thread::JoinHandle;

use rayon::{ThreadPool, ThreadPoolBuilder};

/// The number of threads that can work at once.
pub fn available() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Runs `work` on up to `threads` threads at once, the caller's among them, and waits for all. Each run takes its tasks from a shared queue,
/// so the number of runs does not matter.
pub fn on_threads(threads: usize, work: impl Fn() + Sync) {
    let Some(pool) = pool().filter(|_| threads > 1) else { return work() };
    pool.in_place_scope(|scope| {
        for _ in 1..threads.min(pool.current_num_threads() + 1) {
            scope.spawn(|_| work());
        }
        work();
    });
}

/// Calls `work` with each of `0..count`, on up to `threads` threads.
pub fn for_each(count: usize, threads: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    on_threads(threads.min(count), || {
        loop {
            let task = next.fetch_add(1, Ordering::Relaxed);
            if task >= count {
                return;
            }
            work(task);
        }
    });
}

/// Calls `work` with each item, on up to `threads` threads.
pub fn for_each_item<T: Send>(items: Vec<T>, threads: usize, work: impl Fn(T) + Sync) {
    map(items, threads, work);
}

/// The results of `work` for each item, in order, computed on up to `threads` threads.
pub fn map<T: Send, R: Send>(items: Vec<T>, threads: usize, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let tasks: Vec<_> = items.into_iter().map(|item| Mutex::new((Some(item), None))).collect();
    for_each(tasks.len(), threads, |task| {
        let mut task = tasks[task].lock().unwrap_or_else(PoisonError::into_inner);
        task.1 = task.0.take().map(&work);
    });
    tasks.into_iter().filter_map(|task| task.into_inner().unwrap_or_else(PoisonError::into_inner).1).collect()
}

/// Starts a thread.
///
/// # Errors
/// The work, if no thread can be started.
pub fn spawn<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(work: F) -> Result<JoinHandle<T>, F> {
    let (kept, taken) = shared(work);
    if refused() {
        return Err(take(&kept));
    }
    thread::Builder::new().spawn(move || take(&taken)()).map_err(|_| take(&kept))
}

/// Starts a thread in a scope.
///
/// # Errors
/// The work, if no thread can be started.
pub fn spawn_scoped<'scope, T: Send + 'scope, F: FnOnce() -> T + Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    work: F,
) -> Result<thread::ScopedJoinHandle<'scope, T>, F> {
    let (kept, taken) = shared(work);
    if refused() {
        return Err(take(&kept));
    }
    thread::Builder::new().spawn_scoped(scope, move || take(&taken)()).map_err(|_| take(&kept))
}

/// Starts a thread with a stack of this size that nobody waits for. Whether it could be started.
pub fn detach(bytes: usize, work: impl FnOnce() + Send + 'static) -> bool {
    !refused() && thread::Builder::new().stack_size(bytes).spawn(work).is_ok()
}

/// The result of `work` on a thread with a stack of this size. `None` if no thread can be started. A panic is passed on.
pub fn with_stack<T: Send>(bytes: usize, work: impl FnOnce() -> T + Send) -> Option<T> {
    if refused() {
        return None;
    }
    thread::scope(|scope| {
        let running = thread::Builder::new().stack_size(bytes).spawn_scoped(scope, work).ok()?;
        Some(running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// The results of both, computed at the same time if possible. A panic of either is passed on.
pub fn join<A, B: Send>(here: impl FnOnce() -> A, there: impl FnOnce() -> B + Send) -> (A, B) {
    thread::scope(|scope| match spawn_scoped(scope, there) {
        Ok(running) => {
            let result = here();
            (result, running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        }
        Err(there) => (here(), there()),
    })
}

/// A thread that cannot be started drops its work, so it only gets a share of it.
type SharedWork<F> = Arc<Mutex<Option<F>>>;

fn shared<F>(work: F) -> (SharedWork<F>, SharedWork<F>) {
    let work = Arc::new(Mutex::new(Some(work)));
    (Arc::clone(&work), work)
}

fn take<F>(work: &SharedWork<F>) -> F {
    let taken = work.lock().unwrap_or_else(PoisonError::into_inner).take();
    taken.expect("the work is taken once: by the thread, or by the caller if there is none")
}

/// The pool of this process. `None` if no thread can be started; the next call tries again.
fn pool() -> Option<&'static ThreadPool> {
    static POOL: Mutex<Option<(u32, &'static ThreadPool)>> = Mutex::new(None);
    if refused() {
        return None;
    }
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    match *pool {
        Some((owner, pool)) if owner == process => Some(pool),
        _ => {
            let mut sizes = std::iter::successors(Some(available()), |size| (*size > 1).then_some(size / 2));
            let made: &'static ThreadPool = Box::leak(Box::new(sizes.find_map(build)?));
            *pool = Some((process, made));
            Some(made)
        }
    }
}

fn build(threads: usize) -> Option<ThreadPool> {
    ThreadPoolBuilder::new().num_threads(threads).thread_name(|number| format!("worker-{number}")).build().ok()
}

/// Whether a test forbids threads.
fn refused() -> bool {
    #[cfg(test)]
    return tests::REFUSED.load(Ordering::Relaxed);
    #[cfg(not(test))]
    false
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    pub(crate) static REFUSED: AtomicBool = AtomicBool::new(false);

    /// Calls `work` while no thread can be started in this process.
    pub(crate) fn without_threads<T>(work: impl FnOnce() -> T) -> T {
        REFUSED.store(true, Ordering::Relaxed);
        let result = work();
        REFUSED.store(false, Ordering::Relaxed);
        result
    }

    #[test]
    fn the_results_are_the_same_with_and_without_threads() {
        let all = || {
            let squares = map((0..100).collect(), 8, |n: usize| n * n);
            let sum = AtomicUsize::new(0);
            for_each(1000, 8, |n| {
                sum.fetch_add(n, Ordering::Relaxed);
            });
            let spawned = spawn(|| 5).map_or_else(|work| work(), |thread| thread.join().unwrap());
            (squares, sum.into_inner(), join(|| 1, || 2), spawned)
        };
        let expected = ((0..100).map(|n| n * n).collect(), 499_500, (1, 2), 5);
        assert_eq!(all(), expected);
        assert_eq!(without_threads(all), expected);
        assert!(without_threads(|| spawn(|| 5).is_err()));
    }

    #[test]
    fn a_forked_process_has_a_pool_of_its_own() {
        for_each(10, 4, |_| {});
        // SAFETY: the child only computes, and ends without running destructors.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let sum = AtomicUsize::new(0);
            for_each(100, 4, |n| {
                sum.fetch_add(n, Ordering::Relaxed);
            });
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(sum.into_inner() != 4950)) };
        }
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let mut status = 0;
        // SAFETY: waits for the child made above.
        while unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } == 0 {
            if std::time::Instant::now() > until {
                // SAFETY: ends the child made above.
                unsafe { libc::kill(child, libc::SIGKILL) };
                panic!("the child waits for threads that it does not have");
            }
            thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(status, 0);
    }
}
