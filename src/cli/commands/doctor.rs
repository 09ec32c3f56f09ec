//! `doctor`: reports what is missing and how to fix it.

use std::path::Path;
use std::process::Command;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::python::environment::{Environment, PYTHON_EXECUTABLE, PYTHON_HOME, PYTHON_VERSION};
use crate::python::{environment, host_prefix};

/// The result of one check.
struct Finding {
    what: &'static str,
    good: bool,
    found: String,
    fix: Option<String>,
}

/// Report what is missing and how to fix it
#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {}

impl DoctorArgs {
    /// Runs all checks. Returns exit code 1 if something necessary is missing.
    pub(crate) fn run(global: &GlobalArgs) -> u8 {
        diagnose(global)
    }
}

fn diagnose(options: &GlobalArgs) -> u8 {
    let mut findings = match host_prefix() {
        Some(prefix) => check_environment(&environment::of_host(prefix)),
        None => std::iter::once(check_interpreter()).chain(check_environments(options)).collect(),
    };
    findings.push(check_disk());
    let good = findings.iter().all(|one| one.good);
    if options.json {
        let list: Vec<Value> =
            findings.iter().map(|one| json!({"what": one.what, "good": one.good, "found": one.found, "cure": one.fix})).collect();
        output::json(&json!({"good": good, "findings": list}));
    } else {
        for one in &findings {
            output::line(&format!("{} {:<14} {}", if one.good { "ok  " } else { "FAIL" }, one.what, one.found));
            if let Some(fix) = &one.fix {
                output::line(&format!("     {:<14} fix: {fix}", ""));
            }
        }
    }
    u8::from(!good)
}

fn check_interpreter() -> Finding {
    let executable = Path::new(PYTHON_EXECUTABLE);
    let good = executable.exists() && Path::new(PYTHON_HOME).join(format!("lib/python{PYTHON_VERSION}")).is_dir();
    Finding {
        what: "Python",
        good,
        found: format!("{PYTHON_VERSION} of {PYTHON_HOME}, linked when this binary was built"),
        fix: (!good).then(|| format!("Python was removed from {PYTHON_HOME}: install Python {PYTHON_VERSION} with its shared library there, or rebuild (`cargo build --release`)")),
    }
}

fn check_environments(options: &GlobalArgs) -> Vec<Finding> {
    match environment::find(options.python_env.as_deref()) {
        Ok(found) => check_environment(&found),
        Err(_) => environment::candidates(options.python_env.as_deref())
            .into_iter()
            .map(|one| {
                let (found, fix) = match one.incompatibility() {
                    Some(why) if one.folder.exists() => (
                        why,
                        if one.is_managed() {
                            "remove it, then `pyrust-nn setup`".into()
                        } else {
                            "choose another with --python-env, or deactivate it if it is VIRTUAL_ENV".to_string()
                        },
                    ),
                    Some(why) => (why, "`pyrust-nn setup` creates one".into()),
                    None => {
                        let missing: Vec<String> = one.missing_packages().iter().map(ToString::to_string).collect();
                        let fix = if one.is_managed() {
                            "`pyrust-nn setup` completes it".into()
                        } else {
                            "install these packages in it, or run `pyrust-nn setup` without VIRTUAL_ENV and --python-env to create another"
                                .into()
                        };
                        (format!("{} lacks {}", one.folder.display(), missing.join(", ")), fix)
                    }
                };
                Finding { what: "environment", good: false, found: format!("{}: {found}", one.from), fix: Some(fix) }
            })
            .collect(),
    }
}

/// Checks an environment and, if no package is missing, its packages.
fn check_environment(environment: &Environment) -> Vec<Finding> {
    let missing: Vec<String> = environment.missing_packages().iter().map(ToString::to_string).collect();
    let good = missing.is_empty();
    let lacks = if good { String::new() } else { format!(", lacks {}", missing.join(", ")) };
    let found = format!("{} ({}){lacks}", environment.folder.display(), environment.from);
    let fix = (!good).then(|| format!("{} -m pip install pyrust-nn", environment.python().display()));
    let mut all = vec![Finding { what: "environment", good, found, fix }];
    if good {
        all.extend(check_packages(environment));
    }
    all
}

/// Imports the packages in a separate process, because an import can crash, and reports their versions.
fn check_packages(environment: &Environment) -> Vec<Finding> {
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
            found: format!("cannot be imported: {why}"),
            fix: Some("remove the environment, then `pyrust-nn setup`".into()),
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
        Finding { what: "torch", good: true, found: text("torch").unwrap_or_default(), fix: None },
        Finding { what: "CUDA", good: true, found: cuda, fix: None },
        Finding {
            what: "bitsandbytes",
            good: bitsandbytes.is_none(),
            found: bitsandbytes.clone().or_else(|| text("bitsandbytes")).unwrap_or_default(),
            fix: bitsandbytes.map(|_| "4-bit and 8-bit need it: remove the environment, then `pyrust-nn setup`".into()),
        },
    ]
}

fn check_disk() -> Finding {
    let free = free_bytes(Path::new("."));
    let good = free.is_none_or(|free| free > 8 << 30);
    Finding {
        what: "disk",
        good,
        found: free
            .map_or_else(|| "free space unknown".into(), |free| format!("{:.1} GB free in the working directory", free as f64 / 1e9)),
        fix: (!good).then(|| "an environment takes 6 GB, and models and checkpoints more: free some space, or use another disk".into()),
    }
}

fn free_bytes(path: &Path) -> Option<u64> {
    let path = std::ffi::CString::new(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())).ok()?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path is NUL-terminated and the result points to valid memory.
    unsafe { (libc::statvfs(path.as_ptr(), found.as_mut_ptr()) == 0).then(|| found.assume_init()) }
        .map(|found| found.f_bavail * found.f_frsize)
}
