//! Starts the embedded interpreter, once per process.
//!
//! By default an embedded interpreter takes its home from the first `python3` in `PATH`. So home, executable and program name are set in
//! `PyConfig`. `PYTHONPATH` and user packages are ignored.
//!
//! The native module must be importable in the binary too. It is added to the table of built-in modules (inittab) as `_core`, and
//! `bootstrap.py` registers it as `pyrust_nn._core`, importable from the embedded files. `native/` defines the module and uses
//! everything, including this part, so `use` would make a circle: only the C symbol `PyInit__core` is declared here, `native/mod.rs`
//! defines it, and the linker joins them.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::base::signals::Handlers;
use crate::base::{assets, error, offline, signals};
use crate::python::environment;
use crate::python::environment::{Environment, PYTHON_HOME};
use crate::python::exceptions::from_python;

/// Which environment to use, and whether to create one. Only the command line sets it: a library installs nothing.
#[derive(Clone, Debug, Default)]
pub struct EnvironmentChoice {
    pub python_env: Option<PathBuf>,
    pub setup: bool,
    pub offline: bool,
}

static CHOICE: Mutex<Option<EnvironmentChoice>> = Mutex::new(None);

/// The state of the interpreter's start.
enum StartState {
    NotYet,
    Done,
    /// The start failed. A process cannot start a second interpreter.
    Failed(String),
}

static START: Mutex<StartState> = Mutex::new(StartState::NotYet);

/// Whether this crate started the interpreter. Set just before the start.
static EMBEDDED: AtomicBool = AtomicBool::new(false);

/// Whether the start failed. Then the interpreter may be half made, and counts as initialized.
static FAILED: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    /// The init function of the module `_core`. `native/` defines it, but uses every other part, so a `use` of it here would be a circle.
    /// The linker joins the declaration and the definition.
    fn PyInit__core() -> *mut ffi::PyObject;
}

/// Sets which environment the interpreter will use when it starts.
pub fn use_environment(choice: EnvironmentChoice) {
    *CHOICE.lock().unwrap_or_else(PoisonError::into_inner) = Some(choice);
}

/// Starts Python if it is not running.
///
/// # Errors
/// Kind `setup`.
pub(crate) fn start() -> Result<()> {
    start_in(|choice| {
        let given = choice.python_env.as_deref();
        if choice.setup { environment::find_or_create(given, false, choice.offline) } else { environment::find(given) }
    })
}

/// Starts Python if there is an environment to start in. Otherwise checks that one can be created, and creates none. Returns whether
/// Python runs.
///
/// # Errors
/// Kind `setup`.
pub(crate) fn start_or_check_environment() -> Result<bool> {
    let choice = CHOICE.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default();
    let mut missing = None;
    let started = start_in(|choice| environment::find(choice.python_env.as_deref()).inspect_err(|_| missing = Some(())));
    match missing {
        None => started.map(|()| true),
        Some(()) => environment::check(choice.python_env.as_deref(), choice.setup, choice.offline).map(|()| false),
    }
}

/// Like `start`, but creates no environment.
pub(crate) fn start_existing() -> Result<()> {
    start_in(|choice| environment::find(choice.python_env.as_deref()))
}

fn start_in(environment: impl FnOnce(&EnvironmentChoice) -> Result<Environment>) -> Result<()> {
    let mut start = START.lock().unwrap_or_else(PoisonError::into_inner);
    match &*start {
        StartState::Done => return Ok(()),
        StartState::Failed(why) => {
            return Err(error::setup(format!("Python failed to start before in this process: {why}; start a new process")));
        }
        // SAFETY: may be called at any time.
        StartState::NotYet if unsafe { ffi::Py_IsInitialized() } != 0 => return Ok(()),
        StartState::NotYet => {}
    }
    let choice = CHOICE.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default();
    let environment = environment(&choice)?;
    debug!("Python environment {} ({})", environment.folder.display(), environment.from);
    EMBEDDED.store(true, Ordering::Relaxed);
    let started = initialize(&environment)
        .and_then(|()| Python::attach(|py| make_importable(py, &environment).map_err(|raised| from_python(py, raised))));
    *start = match &started {
        Ok(()) => StartState::Done,
        Err(cause) => {
            FAILED.store(true, Ordering::Relaxed);
            EMBEDDED.store(false, Ordering::Relaxed);
            StartState::Failed(format!("{cause:#}"))
        }
    };
    started
}

fn initialize(environment: &Environment) -> Result<()> {
    // SAFETY: the interpreter is not running (checked by the caller under a lock); the configuration is initialized before it is
    // used and cleared afterwards, and every pointer outlives the call.
    unsafe {
        ffi::PyImport_AppendInittab(c"_core".as_ptr(), Some(PyInit__core));
        let mut config: ffi::PyConfig = std::mem::zeroed();
        ffi::PyConfig_InitPythonConfig(&raw mut config);
        // The host handles signals and arguments. A fixed hash seed makes runs reproducible. SIGPIPE must be ignored, as Python does:
        // writing to a closed connection must be an error and not end the process.
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        config.install_signal_handlers = 0;
        config.parse_argv = 0;
        config.user_site_directory = 0;
        config.use_environment = 0;
        config.safe_path = 1;
        config.use_hash_seed = 1;
        config.hash_seed = 0;
        let python = environment.python();
        let mut status = set_path(&raw mut config, |config| &raw mut (*config).home, Path::new(PYTHON_HOME));
        if ffi::PyStatus_Exception(status) == 0 {
            status = set_path(&raw mut config, |config| &raw mut (*config).executable, &python);
        }
        if ffi::PyStatus_Exception(status) == 0 {
            status = set_path(&raw mut config, |config| &raw mut (*config).program_name, &python);
        }
        if ffi::PyStatus_Exception(status) == 0 {
            status = ffi::Py_InitializeFromConfig(&raw const config);
        }
        ffi::PyConfig_Clear(&raw mut config);
        if ffi::PyStatus_Exception(status) != 0 {
            let why = if status.err_msg.is_null() {
                "no reason given".into()
            } else {
                std::ffi::CStr::from_ptr(status.err_msg).to_string_lossy()
            };
            return Err(error::setup(format!(
                "Python cannot start from {} ({why}); run `pyrust-nn doctor` for details",
                environment.folder.display()
            )));
        }
        // Release the GIL. Threads attach when they need Python.
        ffi::PyEval_SaveThread();
    }
    Ok(())
}

unsafe fn set_path(
    config: *mut ffi::PyConfig,
    field: impl Fn(*mut ffi::PyConfig) -> *mut *mut libc::wchar_t,
    value: &Path,
) -> ffi::PyStatus {
    let text = CString::new(value.as_os_str().as_bytes()).unwrap_or_default();
    // SAFETY: `config` is initialized, the field belongs to it, and the text outlives the call.
    unsafe { ffi::PyConfig_SetBytesString(config, field(config), text.as_ptr()) }
}

/// Makes `pyrust_nn` importable from the embedded files, which take precedence over an installed package.
fn make_importable(py: Python<'_>, environment: &Environment) -> PyResult<()> {
    let modules = PyDict::new(py);
    for module in assets::modules() {
        modules.set_item(module.name, (module.path, module.text, module.package))?;
    }
    let globals = PyDict::new(py);
    globals.set_item("MODULES", modules)?;
    globals.set_item("EXECUTABLE", environment.python())?;
    let code = CString::new(include_str!("bootstrap.py"))?;
    py.run(&code, Some(&globals), None)
}

/// Ends Python like the end of a script: waits for threads, calls atexit functions, flushes files. The interpreter is not finalized,
/// because libraries report leaks then.
pub(crate) fn finish() {
    if started() {
        let done = Python::attach(|py| py.import("pyrust_nn._runtime.host")?.call_method0("finish").map(drop));
        if let Err(raised) = done {
            Python::attach(|py| raised.print(py));
        }
    }
}

/// Whether this crate started the interpreter. False if Python is the host.
pub(crate) fn started() -> bool {
    EMBEDDED.load(Ordering::Relaxed)
}

/// Records Ctrl-C and SIGTERM until the returned value is dropped. `None` if Python is the host, which has its own handlers.
pub(crate) fn note_signals() -> Option<Handlers> {
    (!hosted_by_python()).then(Handlers::note_signals)
}

/// Checks for Ctrl-C and SIGTERM in long operations that are called from Python.
///
/// # Errors
/// Kind `interrupted`, or the exception of Python's signal handler.
pub(crate) fn check_signals() -> Result<()> {
    signals::check()?;
    Python::attach(|py| py.check_signals().map_err(anyhow::Error::from))
}

/// Calls `work` with Python. Meanwhile Python's logging and streams go to the session's log, and Ctrl-C raises `KeyboardInterrupt`.
///
/// # Errors
/// The error of `work` (a Python exception is converted), or kind `setup` if there is no Python environment.
pub(crate) fn with_python<T>(work: impl FnOnce(Python<'_>) -> Result<T>) -> Result<T> {
    start()?;
    let _signals = Handlers::keep();
    Python::attach(|py| {
        let bridge = py
            .import("pyrust_nn._runtime.host")
            .and_then(|host| host.call_method0("open_bridge"))
            .map_err(|raised| from_python(py, raised))?;
        let result = work(py);
        bridge.call_method0("close").map_err(|raised| from_python(py, raised))?;
        result.map_err(|error| match error.downcast::<PyErr>() {
            Ok(raised) => from_python(py, raised),
            Err(error) => error,
        })
    })
}

/// `sys.prefix` of the host. `None` if Python is not the host.
pub(crate) fn host_prefix() -> Option<PathBuf> {
    let prefix = |py: Python<'_>| py.import("sys")?.getattr("prefix")?.extract();
    hosted_by_python().then(|| Python::attach(prefix).ok()).flatten()
}

/// Denies the network to this process and its children, unless Python is the host: then only its own connections are refused, while an
/// offline step runs.
pub(crate) fn deny_network() {
    if !hosted_by_python() {
        offline::deny_network();
    }
}

/// Whether Python is the host and this crate a module in it.
pub(crate) fn hosted_by_python() -> bool {
    // SAFETY: may be called at any time.
    !started() && !FAILED.load(Ordering::Relaxed) && unsafe { ffi::Py_IsInitialized() } != 0
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::base::error::{Error, Kind};

    /// Set in the child process of the test: an environment in which Python cannot start.
    const BROKEN: &str = "PYRUST_NN_TEST_BROKEN_ENVIRONMENT";

    #[test]
    fn a_failed_start_is_an_error_and_so_is_the_next_one() {
        if let Some(folder) = std::env::var_os(BROKEN) {
            return start_twice(folder.into());
        }
        let folder = tempfile::tempdir().unwrap();
        let packages = folder.path().join("site-packages");
        let library = format!("lib/python{}/site-packages", environment::PYTHON_VERSION);
        std::fs::create_dir_all(folder.path().join(&library).parent().unwrap()).unwrap();
        std::fs::create_dir(&packages).unwrap();
        std::os::unix::fs::symlink(&packages, folder.path().join(&library)).unwrap();
        std::fs::create_dir(folder.path().join("bin")).unwrap();
        std::os::unix::fs::symlink(environment::PYTHON_EXECUTABLE, folder.path().join("bin/python")).unwrap();
        std::fs::write(folder.path().join("pyvenv.cfg"), format!("home = {PYTHON_HOME}/bin\nversion = {}\n", environment::PYTHON_VERSION))
            .unwrap();
        // Python ends its start with an error if this raises anything but an Exception.
        std::fs::write(packages.join("sitecustomize.py"), "raise SystemExit('broken on purpose')\n").unwrap();
        let name = std::thread::current().name().unwrap().to_string();
        let child =
            Command::new(std::env::current_exe().unwrap()).args(["--exact", &name, "--nocapture"]).env(BROKEN, folder.path()).output();
        let child = child.unwrap();
        assert!(child.status.success(), "{}\n{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    }

    fn start_twice(folder: PathBuf) {
        let given = || Ok(Environment { folder: folder.clone(), from: "the test".into() });
        let first = Error::of(&start_in(|_| given()).unwrap_err());
        assert_eq!(first.kind, Kind::Setup);
        assert!(first.message.starts_with("Python cannot start from") && first.message.contains("doctor"), "{}", first.message);
        let second = Error::of(&start_in(|_| given()).unwrap_err());
        assert_eq!(second.kind, Kind::Setup);
        assert!(second.message.contains("failed to start before in this process") && second.message.contains(&first.message));
        // Nothing takes the half-made interpreter for one that works.
        assert!(!started() && !hosted_by_python() && host_prefix().is_none());
        drop(note_signals().unwrap());
        finish();
    }
}
