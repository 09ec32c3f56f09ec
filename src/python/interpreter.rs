//! Starts the embedded interpreter, once, with its home, executable and packages set by us: by default Python takes them from
//! whatever `python3` stands first in PATH.

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
use crate::base::{assets, error, signals};
use crate::python::environment;
use crate::python::environment::{Environment, PYTHON_HOME};
use crate::python::exceptions::from_python;

/// Which environment to use, and whether to make one. Set by the command line: a library installs nothing by itself.
#[derive(Clone, Debug, Default)]
pub struct EnvironmentChoice {
    pub python_env: Option<PathBuf>,
    pub setup: bool,
    pub offline: bool,
}

static WANTED: Mutex<Option<EnvironmentChoice>> = Mutex::new(None);

/// How far the start has come.
enum Start {
    NotYet,
    Done,
    /// The interpreter is there but cannot be used, and a process has no second one.
    Failed(String),
}

static START: Mutex<Start> = Mutex::new(Start::NotYet);

/// Whether the interpreter is ours, from the moment when it begins to start.
static OURS: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    /// The built-in module `_core`, under the symbol by which CPython names every built-in module. The linker hands it in: `native/`
    /// defines it and uses everything, this file included, so no arrow may lead there.
    fn PyInit__core() -> *mut ffi::PyObject;
}

/// Sets which environment the interpreter will use when it starts.
pub fn use_environment(wanted: EnvironmentChoice) {
    *WANTED.lock().unwrap_or_else(PoisonError::into_inner) = Some(wanted);
}

/// Starts Python where it is not running yet.
pub(crate) fn start() -> Result<()> {
    start_in(|wanted| {
        let given = wanted.python_env.as_deref();
        if wanted.setup { environment::find_or_make(given, wanted.offline) } else { environment::find(given) }
    })
}

/// As `start`, but makes no environment.
pub(crate) fn start_if_there() -> Result<()> {
    start_in(|wanted| environment::find(wanted.python_env.as_deref()))
}

fn start_in(environment: impl FnOnce(&EnvironmentChoice) -> Result<Environment>) -> Result<()> {
    let mut start = START.lock().unwrap_or_else(PoisonError::into_inner);
    match &*start {
        Start::Done => return Ok(()),
        Start::Failed(why) => {
            return Err(error::setup(format!("Python failed to start before in this process: {why}; start a new process")));
        }
        // SAFETY: may be called at any time.
        Start::NotYet if unsafe { ffi::Py_IsInitialized() } != 0 => return Ok(()),
        Start::NotYet => {}
    }
    let wanted = WANTED.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default();
    let environment = environment(&wanted)?;
    debug!("Python environment {} ({})", environment.folder.display(), environment.from);
    OURS.store(true, Ordering::Relaxed);
    let started =
        initialize(&environment).and_then(|()| Python::attach(|py| prepare(py, &environment).map_err(|raised| from_python(py, raised))));
    *start = match &started {
        Ok(()) => Start::Done,
        Err(cause) => {
            OURS.store(false, Ordering::Relaxed);
            Start::Failed(format!("{cause:#}"))
        }
    };
    started
}

fn initialize(environment: &Environment) -> Result<()> {
    // SAFETY: the interpreter is not running (checked by the caller under a lock); the configuration is initialized before it is
    // used and cleared after, and every pointer handed over outlives the call.
    unsafe {
        ffi::PyImport_AppendInittab(c"_core".as_ptr(), Some(PyInit__core));
        let mut config: ffi::PyConfig = std::mem::zeroed();
        ffi::PyConfig_InitPythonConfig(&raw mut config);
        // Signals, arguments and user packages are the host's affair; a fixed hash seed makes a run repeatable. SIGPIPE alone
        // must be ignored, as Python would have it: a connection that the other side closed is an error and no end.
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        config.install_signal_handlers = 0;
        config.parse_argv = 0;
        config.user_site_directory = 0;
        config.use_environment = 0;
        config.safe_path = 1;
        config.use_hash_seed = 1;
        config.hash_seed = 0;
        let python = environment.python();
        let mut status = set(&raw mut config, |config| &raw mut (*config).home, Path::new(PYTHON_HOME));
        if ffi::PyStatus_Exception(status) == 0 {
            status = set(&raw mut config, |config| &raw mut (*config).executable, &python);
        }
        if ffi::PyStatus_Exception(status) == 0 {
            status = set(&raw mut config, |config| &raw mut (*config).program_name, &python);
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
                "Python cannot start from {} ({why}); `pyrust-nn doctor` looks closer",
                environment.folder.display()
            )));
        }
        // Threads attach when they need Python.
        ffi::PyEval_SaveThread();
    }
    Ok(())
}

unsafe fn set(config: *mut ffi::PyConfig, field: impl Fn(*mut ffi::PyConfig) -> *mut *mut libc::wchar_t, value: &Path) -> ffi::PyStatus {
    let text = CString::new(value.as_os_str().as_bytes()).unwrap_or_default();
    // SAFETY: `config` is initialized, the field belongs to it, and the text lives until the call is over.
    unsafe { ffi::PyConfig_SetBytesString(config, field(config), text.as_ptr()) }
}

/// Makes `pyrust_nn` importable from the binary's own files, which win over an installed one.
fn prepare(py: Python<'_>, environment: &Environment) -> PyResult<()> {
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

/// What Python does at its end for a script: waits for threads, calls what is registered for the end, flushes files. The interpreter
/// stays: libraries report its end as leaks of theirs.
pub(crate) fn finish() {
    if started() {
        let done = Python::attach(|py| py.import("pyrust_nn._runtime.host")?.call_method0("finish").map(drop));
        if let Err(raised) = done {
            Python::attach(|py| raised.print(py));
        }
    }
}

/// Whether this program started the interpreter (rather than the interpreter the program).
pub(crate) fn started() -> bool {
    OURS.load(Ordering::Relaxed)
}

/// Notes Ctrl-C and SIGTERM while what it gives lives; nothing where Python is the host, which has handlers of its own.
pub(crate) fn note_signals() -> Option<Handlers> {
    (!hosted_by_python()).then(Handlers::note_signals)
}

/// For long work that Python waits for: an error once Ctrl-C or SIGTERM has come, whoever has the handlers.
pub(crate) fn check_signals() -> Result<()> {
    signals::check()?;
    Python::attach(|py| py.check_signals().map_err(anyhow::Error::from))
}

/// Calls `work` with Python: its logging and streams go to our log, Ctrl-C raises `KeyboardInterrupt`, until it returns.
///
/// # Errors
/// Its own (a Python exception becomes one of ours), or kind `setup` where there is no Python environment.
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

/// `sys.prefix` of the Python that is the program.
pub(crate) fn host_prefix() -> Option<PathBuf> {
    let prefix = |py: Python<'_>| py.import("sys")?.getattr("prefix")?.extract();
    hosted_by_python().then(|| Python::attach(prefix).ok()).flatten()
}

/// Whether Python is the program and this crate a module of it.
pub(crate) fn hosted_by_python() -> bool {
    // SAFETY: may be called at any time.
    !started() && unsafe { ffi::Py_IsInitialized() } != 0
}
