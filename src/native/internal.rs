//! Internal functions for the package's own scripts and the tests. They are not part of the public API.

use std::cell::Cell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ::log::Level;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::base::logging::Shown;
use crate::base::{assets, cache, error, files, hashes, logging, numbers, progress};
use crate::data::Transformers;
use crate::python::convert::to_object;
use crate::python::exceptions::to_python;
use crate::python::transformers::PythonTransformers;
use crate::session::Summary;
use crate::session::names::runs_dir;
use crate::{adapter, data, dataset, estimate, python, report};

/// One record of the log. `shown`: on which consoles, `always`, `off_terminal` or `verbose`.
#[pyfunction]
#[pyo3(name = "log", signature = (level, origin, text, shown="always"))]
fn log_record(py: Python<'_>, level: u32, origin: &str, text: &str, shown: &str) {
    let shown = match shown {
        "off_terminal" => Shown::OffTerminal,
        "verbose" => Shown::Verbose,
        _ => Shown::Always,
    };
    let level = match level {
        0..20 => Level::Debug,
        20..30 => Level::Info,
        30..40 => Level::Warn,
        _ => Level::Error,
    };
    py.detach(|| logging::emit_to(level, origin, text, shown));
}

/// The place (rank, size, rank and size on this machine) that torchrun or srun gave this process. `None`: it is alone.
#[pyfunction]
fn torchrun_place() -> Option<(u32, u32, u32, u32)> {
    python::torchrun_place().map(|place| (place.rank, place.size, place.local_rank, place.local_size))
}

/// The words that start this program as a worker. `None` if it is not the command line.
#[pyfunction]
fn worker_command() -> Option<Vec<String>> {
    python::worker_command()
}

/// A context manager: while entered, records of the log go to a file.
#[pyclass(unsendable)]
struct AttachedLog {
    path: PathBuf,
    attached: Option<logging::Attached>,
}

#[pymethods]
impl AttachedLog {
    fn __enter__(&mut self) -> PyResult<()> {
        self.attached = Some(logging::attach(&self.path).map_err(to_python)?);
        Ok(())
    }

    #[pyo3(signature = (*_raised))]
    fn __exit__(&mut self, _raised: &Bound<'_, PyTuple>) {
        self.attached = None;
    }
}

#[pyfunction]
fn attached_log(path: PathBuf) -> AttachedLog {
    AttachedLog { path, attached: None }
}

/// Shows what is being done on a terminal. An empty text removes it.
#[pyfunction]
fn status(py: Python<'_>, text: &str) {
    py.detach(|| progress::status(text));
}

/// A summary (JSON) as HTML for a notebook.
#[pyfunction]
fn summary_html(py: Python<'_>, summary: &str) -> PyResult<String> {
    let html = || -> anyhow::Result<String> {
        let summary: Summary = serde_json::from_str(summary).map_err(|cause| error::usage(format!("this is no summary: {cause}")))?;
        let runs = summary.params.get("runs_dir").and_then(serde_json::Value::as_str).map(PathBuf::from);
        report::summary_html(&summary, &runs_dir(runs.as_deref()))
    };
    py.detach(html).map_err(to_python)
}

#[pyfunction]
fn publish_folder(py: Python<'_>, made: PathBuf, target: PathBuf) -> PyResult<()> {
    py.detach(|| files::publish_folder(&made, &target)).map_err(to_python)
}

#[pyfunction]
fn digest(py: Python<'_>, files: Vec<PathBuf>) -> PyResult<String> {
    py.detach(|| data::digest(&files)).map(|digest| format!("{digest:032x}")).map_err(to_python)
}

/// A text, the byte positions of its turns, and the index of the message that it is rendered for.
type Rendered = (String, Vec<(usize, usize, usize)>, Option<usize>);

#[pyfunction]
fn render_chat(py: Python<'_>, folder: PathBuf, conversations: Vec<String>) -> PyResult<Vec<Py<PyAny>>> {
    rendered(py, py.detach(|| data::render_chat(&folder, &conversations)))
}

/// Raises InputError if the template in `folder` does not render the messages within its limits. `messages` and `options` are JSON.
#[pyfunction]
fn check_template(py: Python<'_>, folder: PathBuf, messages: &str, options: &str, prompt: bool) -> PyResult<()> {
    let checked = || {
        let options: serde_json::Map<String, serde_json::Value> = serde_json::from_str(options)?;
        let options: Vec<_> = options.into_iter().collect();
        data::check_template(&folder, &serde_json::from_str(messages)?, &options, prompt)
    };
    py.detach(checked).map_err(to_python)
}

/// Like `render_chat`, but rendered by transformers.
#[pyfunction]
fn render_chat_by_transformers(py: Python<'_>, folder: PathBuf, conversations: Vec<String>) -> PyResult<Vec<Py<PyAny>>> {
    let renderings = || {
        let renderer = PythonTransformers.renderer(&folder)?;
        let renderer = renderer.ok_or_else(|| error::setup("transformers is not installed; run `pyrust-nn setup`"))?;
        data::render_chat_by(&*renderer, &conversations)
    };
    rendered(py, py.detach(renderings))
}

fn rendered(py: Python<'_>, all: anyhow::Result<Vec<Result<Vec<data::Rendering>, String>>>) -> PyResult<Vec<Py<PyAny>>> {
    let each = all.map_err(to_python)?.into_iter().map(|rendered| match rendered {
        Err(why) => why.into_py_any(py),
        Ok(renderings) => {
            let plain = renderings.into_iter().map(|one| {
                let turns = one.turns.iter().map(|turn| (turn.prompt_end, turn.target_start, turn.target_end)).collect();
                (one.text, turns, one.message)
            });
            plain.collect::<Vec<Rendered>>().into_py_any(py)
        }
    });
    each.collect()
}

/// The conversations for inference, as dicts of `messages` and `expected`: those of `prompts` (a JSON list as a string), then those of the file.
#[pyfunction]
#[pyo3(signature = (prompts, prompts_file=None))]
fn read_prompts(py: Python<'_>, prompts: &str, prompts_file: Option<PathBuf>) -> PyResult<Py<PyAny>> {
    let read = py.detach(|| data::read_prompts(prompts, prompts_file.as_deref())).map_err(to_python)?;
    to_object(py, &serde_json::to_value(read).map_err(|error| to_python(error.into()))?)
}

/// The columns of a table that formats know.
#[pyfunction]
fn known_columns() -> Vec<String> {
    data::Layout::default().known_columns().into_iter().map(ToString::to_string).collect()
}

#[pyfunction]
fn tokenizer_head(py: Python<'_>, path: PathBuf) -> PyResult<Py<PyAny>> {
    let head = py.detach(|| data::tokenizer_head(&path)).map_err(to_python)?;
    to_object(py, &serde_json::to_value(head).map_err(|error| to_python(error.into()))?)
}

/// Raises InputError if the tokenizer.json at `path` has an id that no vocabulary has.
#[pyfunction]
fn check_tokenizer(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    py.detach(|| data::check_tokenizer(&path)).map_err(to_python)
}

#[pyfunction]
fn tokenize(py: Python<'_>, folder: PathBuf, texts: Vec<String>) -> PyResult<(bool, Vec<Vec<u32>>)> {
    py.detach(|| data::tokenize(&folder, &texts)).map_err(to_python)
}

#[pyfunction]
fn detokenize(py: Python<'_>, folder: PathBuf, sequences: Vec<Vec<u32>>, skip_special: bool) -> PyResult<Vec<String>> {
    py.detach(|| data::detokenize(&folder, &cache::folder(), &sequences, skip_special)).map_err(to_python)
}

#[pyfunction]
fn tokenize_by_library(py: Python<'_>, folder: PathBuf, texts: Vec<String>) -> PyResult<Vec<Vec<u32>>> {
    py.detach(|| data::tokenize_by_library(&folder, &texts)).map_err(to_python)
}

#[pyfunction]
fn embedded_text(path: &str) -> PyResult<&'static str> {
    assets::text(path).ok_or_else(|| to_python(error::input(format!("there is no embedded file {path}"))))
}

/// The LoRA parameters used if neither the user nor a continued adapter sets them.
#[pyfunction]
fn lora_defaults(py: Python<'_>) -> PyResult<Py<PyAny>> {
    to_object(py, &crate::params::lora_defaults::all())
}

/// Raises InputError for parameters with which the adapter `given` cannot be trained further. `settings` and `params` are JSON.
#[pyfunction]
fn check_continued(given: &str, settings: &str, params: &str) -> PyResult<()> {
    let check = || adapter::check_continued(given, &serde_json::from_str(settings)?, &serde_json::from_str(params)?);
    check().map_err(to_python)
}

/// What `check` estimates for a training, as JSON. `settings` and `rows` are JSON: the parameters, and the data's counts.
#[pyfunction]
fn training_estimate(py: Python<'_>, folder: PathBuf, settings: &str, rows: &str) -> PyResult<String> {
    let estimate = || -> anyhow::Result<String> {
        let (estimate, _) = estimate::estimate(&folder, &serde_json::from_str(settings)?, serde_json::from_str(rows)?)?;
        Ok(serde_json::to_string(&estimate)?)
    };
    py.detach(estimate).map_err(to_python)
}

/// How often Python's signals are checked in long operations.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(100);

/// SHA-256 of a folder's safetensors files, in order of their names. None if there are none. Computed once per process.
#[pyfunction]
fn weights_hash(py: Python<'_>, folder: PathBuf) -> PyResult<Option<String>> {
    py.detach(|| {
        let checked = Cell::new(Instant::now());
        // Checked rarely, because it may have to wait for the GIL.
        hashes::weights(&folder, &|| {
            if checked.get().elapsed() < SIGNAL_INTERVAL {
                return Ok(());
            }
            checked.set(Instant::now());
            python::check_signals()
        })
    })
    .map_err(to_python)
}

/// An adapter in canonical form, as a dict. See [`adapter::read`].
#[pyfunction]
#[pyo3(signature = (folder, base=None))]
fn read_adapter(py: Python<'_>, folder: PathBuf, base: Option<PathBuf>) -> PyResult<Py<PyAny>> {
    let reading = py.detach(|| adapter::read(&folder, base.as_deref())).map_err(to_python)?;
    to_object(py, &serde_json::to_value(reading).map_err(|error| to_python(error.into()))?)
}

/// The folder with the tokenizer of a model or adapter. See [`dataset::tokenizer_folder`].
#[pyfunction]
fn tokenizer_folder(py: Python<'_>, model: PathBuf) -> PyResult<PathBuf> {
    // Python applies the offline setting itself.
    py.detach(|| dataset::tokenizer_folder(&model.to_string_lossy(), false)).map_err(to_python)
}

/// The folder of a tokenizer with more tokens. See [`dataset::with_added_tokens`].
#[pyfunction]
fn with_added_tokens(py: Python<'_>, folder: PathBuf, tokens: Vec<String>) -> PyResult<PathBuf> {
    py.detach(|| dataset::with_added_tokens(&folder, &tokens)).map_err(to_python)
}

/// The cache folder. Everything in it can be recreated.
#[pyfunction]
fn cache_folder() -> PathBuf {
    cache::folder()
}

/// A duration in words: see [`numbers::duration`].
#[pyfunction]
fn duration(seconds: f64) -> String {
    numbers::duration(seconds)
}

/// Whether this process's interpreter is this program's own. False in a Python host.
#[pyfunction]
fn owns_interpreter() -> bool {
    python::started()
}

/// Marks an entry of the cache as used until the process ends. Returns false if there is no such entry.
#[pyfunction]
fn hold_cache_entry(py: Python<'_>, path: PathBuf) -> bool {
    py.detach(|| cache::hold(&path))
}

/// Adds the functions to the module.
pub(crate) fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(log_record, module)?)?;
    module.add_function(wrap_pyfunction!(status, module)?)?;
    module.add_function(wrap_pyfunction!(torchrun_place, module)?)?;
    module.add_function(wrap_pyfunction!(worker_command, module)?)?;
    module.add_function(wrap_pyfunction!(attached_log, module)?)?;
    module.add_function(wrap_pyfunction!(summary_html, module)?)?;
    module.add_function(wrap_pyfunction!(publish_folder, module)?)?;
    module.add_function(wrap_pyfunction!(digest, module)?)?;
    module.add_function(wrap_pyfunction!(check_template, module)?)?;
    module.add_function(wrap_pyfunction!(check_tokenizer, module)?)?;
    module.add_function(wrap_pyfunction!(render_chat, module)?)?;
    module.add_function(wrap_pyfunction!(detokenize, module)?)?;
    module.add_function(wrap_pyfunction!(render_chat_by_transformers, module)?)?;
    module.add_function(wrap_pyfunction!(read_prompts, module)?)?;
    module.add_function(wrap_pyfunction!(known_columns, module)?)?;
    module.add_function(wrap_pyfunction!(tokenizer_head, module)?)?;
    module.add_function(wrap_pyfunction!(tokenize, module)?)?;
    module.add_function(wrap_pyfunction!(tokenize_by_library, module)?)?;
    module.add_function(wrap_pyfunction!(embedded_text, module)?)?;
    module.add_function(wrap_pyfunction!(cache_folder, module)?)?;
    module.add_function(wrap_pyfunction!(duration, module)?)?;
    module.add_function(wrap_pyfunction!(owns_interpreter, module)?)?;
    module.add_function(wrap_pyfunction!(hold_cache_entry, module)?)?;
    module.add_function(wrap_pyfunction!(lora_defaults, module)?)?;
    module.add_function(wrap_pyfunction!(check_continued, module)?)?;
    module.add_function(wrap_pyfunction!(training_estimate, module)?)?;
    module.add_function(wrap_pyfunction!(weights_hash, module)?)?;
    module.add_function(wrap_pyfunction!(read_adapter, module)?)?;
    module.add_function(wrap_pyfunction!(tokenizer_folder, module)?)?;
    module.add_function(wrap_pyfunction!(with_added_tokens, module)?)?;
    Ok(())
}
