//! `doctor`: what is missing here, and the cure.

use std::path::Path;
use std::process::Command;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::python::environment::{Environment, PYTHON_EXECUTABLE, PYTHON_HOME, PYTHON_VERSION};
use crate::python::{environment, host_prefix};

struct Finding {
    what: &'static str,
    good: bool,
    words: String,
    cure: Option<String>,
}

/// Say what is missing, and the fix
#[derive(Args, Debug)]
pub(crate) struct Doctor {}

impl Doctor {
    /// Looks at everything and gives the exit code: 1 where something that is needed is missing.
    pub(crate) fn run(global: &GlobalArgs) -> u8 {
        look(global)
    }
}

fn look(options: &GlobalArgs) -> u8 {
    let mut findings = match host_prefix() {
        Some(prefix) => judged(&environment::of_host(prefix)),
        None => std::iter::once(interpreter()).chain(environments(options)).collect(),
    };
    findings.push(disk());
    let good = findings.iter().all(|one| one.good);
    if options.json {
        let list: Vec<Value> =
            findings.iter().map(|one| json!({"what": one.what, "good": one.good, "found": one.words, "cure": one.cure})).collect();
        output::json(&json!({"good": good, "findings": list}));
    } else {
        for one in &findings {
            output::line(&format!("{} {:<14} {}", if one.good { "ok  " } else { "lack" }, one.what, one.words));
            if let Some(cure) = &one.cure {
                output::line(&format!("     {:<14} cure: {cure}", ""));
            }
        }
    }
    u8::from(!good)
}

fn interpreter() -> Finding {
    let executable = Path::new(PYTHON_EXECUTABLE);
    let good = executable.exists() && Path::new(PYTHON_HOME).join(format!("lib/python{PYTHON_VERSION}")).is_dir();
    Finding {
        what: "Python",
        good,
        words: format!("{PYTHON_VERSION} of {PYTHON_HOME}, linked when this binary was built"),
        cure: (!good).then(|| format!("{PYTHON_HOME} is gone: install Python {PYTHON_VERSION} with its shared library there, or build again (`cargo build --release`)")),
    }
}

fn environments(options: &GlobalArgs) -> Vec<Finding> {
    match environment::find(options.python_env.as_deref()) {
        Ok(found) => judged(&found),
        Err(_) => environment::candidates(options.python_env.as_deref())
            .into_iter()
            .map(|one| {
                let (words, cure) = match one.unfit() {
                    Some(why) if one.folder.exists() => (
                        why,
                        if one.is_ours() {
                            "remove it, then `pyrust-nn setup`".into()
                        } else {
                            "name another with --python-env, or (for VIRTUAL_ENV) deactivate it".to_string()
                        },
                    ),
                    Some(why) => (why, "`pyrust-nn setup` makes one".into()),
                    None => {
                        let lacks: Vec<String> = one.lacks().iter().map(ToString::to_string).collect();
                        let cure = if one.is_ours() {
                            "`pyrust-nn setup` completes it".into()
                        } else {
                            "install these there yourself, or let `pyrust-nn setup` make another (without VIRTUAL_ENV and --python-env)"
                                .into()
                        };
                        (format!("{} lacks {}", one.folder.display(), lacks.join(", ")), cure)
                    }
                };
                Finding { what: "environment", good: false, words: format!("{}: {words}", one.from), cure: Some(cure) }
            })
            .collect(),
    }
}

/// An environment, and what its packages say if they are all there.
fn judged(environment: &Environment) -> Vec<Finding> {
    let lacks: Vec<String> = environment.lacks().iter().map(ToString::to_string).collect();
    let good = lacks.is_empty();
    let lacking = if good { String::new() } else { format!(", lacks {}", lacks.join(", ")) };
    let words = format!("{} ({}){lacking}", environment.folder.display(), environment.from);
    let cure = (!good).then(|| format!("{} -m pip install pyrust-nn", environment.python().display()));
    let mut all = vec![Finding { what: "environment", good, words, cure }];
    if good {
        all.extend(packages(environment));
    }
    all
}

/// What the packages say of themselves, asked in a process of its own: an import can crash.
fn packages(environment: &Environment) -> Vec<Finding> {
    let code = "import torch, json\nout = {'torch': torch.__version__, 'cuda': torch.version.cuda, 'gpu': torch.cuda.get_device_name() if torch.cuda.is_available() else None}\n\
                try:\n    import bitsandbytes\n    out['bitsandbytes'] = bitsandbytes.__version__\nexcept Exception as error:\n    out['bitsandbytes_error'] = str(error)\nprint(json.dumps(out))";
    let output = Command::new(environment.python()).args(["-I", "-c", code]).output();
    let facts: Option<Value> = output.as_ref().ok().and_then(|output| {
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(text.lines().last()?).ok()
    });
    let Some(facts) = facts else {
        let why = output.map_or_else(
            |cause| cause.to_string(),
            |output| String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_string(),
        );
        return vec![Finding {
            what: "torch",
            good: false,
            words: format!("cannot be imported: {why}"),
            cure: Some("remove the environment, then `pyrust-nn setup`".into()),
        }];
    };
    let text = |name: &str| facts[name].as_str().map(ToString::to_string);
    let cuda = match (text("gpu"), text("cuda")) {
        (Some(gpu), _) => gpu.clone(),
        (None, Some(cuda)) => format!(
            "torch is built for CUDA {cuda} but sees no GPU: tasks run on the CPU (a GPU needs NVIDIA's driver; `nvidia-smi` shows it)"
        ),
        (None, None) => "torch is built without CUDA: tasks run on the CPU".into(),
    };
    let bitsandbytes = text("bitsandbytes_error");
    vec![
        Finding { what: "torch", good: true, words: text("torch").unwrap_or_default(), cure: None },
        Finding { what: "CUDA", good: true, words: cuda, cure: None },
        Finding {
            what: "bitsandbytes",
            good: bitsandbytes.is_none(),
            words: bitsandbytes.clone().or_else(|| text("bitsandbytes")).unwrap_or_default(),
            cure: bitsandbytes.map(|_| "4 and 8 bit need it: remove the environment, then `pyrust-nn setup`".into()),
        },
    ]
}

fn disk() -> Finding {
    let free = free_bytes(Path::new("."));
    let good = free.is_none_or(|free| free > 8 << 30);
    Finding {
        what: "disk",
        good,
        words: free
            .map_or_else(|| "free space unknown".into(), |free| format!("{:.1} GB free in the working directory", free as f64 / 1e9)),
        cure: (!good).then(|| "an environment takes 6 GB, models and checkpoints more: free some space, or work elsewhere".into()),
    }
}

fn free_bytes(path: &Path) -> Option<u64> {
    let path = std::ffi::CString::new(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())).ok()?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path ends in a zero byte and the result is memory of ours.
    unsafe { (libc::statvfs(path.as_ptr(), found.as_mut_ptr()) == 0).then(|| found.assume_init()) }
        .map(|found| found.f_bavail * found.f_frsize)
}
