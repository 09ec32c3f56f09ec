//! Finds or creates the Python environment that the binary embeds, and checks its packages. No Python runs in this process for it.
//!
//! A library installs nothing. Only the command line creates an environment, and it changes only environments that it created itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::base::files::LockFile;
use crate::base::{assets, error, files};

/// The interpreter that is linked to this binary. Empty in the wheel, where Python is already running.
pub const PYTHON_HOME: &str = env!("PYRUST_NN_PYTHON_HOME");
pub const PYTHON_EXECUTABLE: &str = env!("PYRUST_NN_PYTHON_EXECUTABLE");
pub const PYTHON_VERSION: &str = env!("PYRUST_NN_PYTHON_VERSION");

/// The file that marks environments created by `setup`. It changes no others.
const MARKER: &str = "pyrust-nn.json";

/// By what a user names an environment.
const FLAG: &str = "--python-env";
const VARIABLE: &str = "PYRUST_NN_PYTHON_ENV";

/// The size of the locked packages on Linux. Most of it is CUDA's libraries.
pub const DOWNLOAD_SIZE: &str = "about 3 GB to download, 6 GB on disk";

/// An environment: a folder with `bin/python`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    pub folder: PathBuf,
    /// Where the choice came from: a flag, variable or place.
    pub from: String,
}

/// A package that is missing in an environment or has the wrong version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingPackage {
    pub name: String,
    pub required: String,
    pub found: Option<String>,
}

impl std::fmt::Display for MissingPackage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.found {
            Some(found) => write!(f, "{} {found} (needs {})", self.name, self.required),
            None => write!(f, "{} ({})", self.name, self.required),
        }
    }
}

impl Environment {
    pub fn python(&self) -> PathBuf {
        self.folder.join("bin/python")
    }

    /// Whether `setup` created it.
    pub fn is_managed(&self) -> bool {
        self.folder.join(MARKER).is_file()
    }

    /// The Python version in `pyvenv.cfg`, such as `3.11.7`.
    pub fn version(&self) -> Option<String> {
        let text = fs::read_to_string(self.folder.join("pyvenv.cfg")).ok()?;
        text.lines().find_map(|line| {
            let (key, value) = line.split_once('=')?;
            matches!(key.trim(), "version" | "version_info").then(|| value.trim().to_string())
        })
    }

    /// Why it cannot be embedded. `None` if it can.
    pub fn incompatibility(&self) -> Option<String> {
        if !self.folder.is_dir() {
            return Some(format!("{} does not exist", self.folder.display()));
        }
        if !self.python().exists() {
            return Some(format!("{} has no working bin/python; it is broken or not an environment", self.folder.display()));
        }
        let version = self.version()?;
        let same = version == PYTHON_VERSION || version.starts_with(&format!("{PYTHON_VERSION}."));
        (!same).then(|| format!("{} has Python {version}, this binary embeds {PYTHON_VERSION}", self.folder.display()))
    }

    /// The packages of pyproject.toml that are missing.
    pub fn missing_packages(&self) -> Vec<MissingPackage> {
        let installed = installed(&self.site_packages());
        requirements()
            .into_iter()
            .filter_map(|(name, required)| {
                let found = installed.get(&normalize(&name)).cloned();
                let in_range = found.as_ref().is_some_and(|found| is_in_range(found, &required));
                (!in_range).then_some(MissingPackage { name, required, found })
            })
            .collect()
    }

    pub fn site_packages(&self) -> PathBuf {
        self.folder.join(format!("lib/python{PYTHON_VERSION}/site-packages"))
    }
}

/// Possible environments in order: only the given one, otherwise VIRTUAL_ENV, `.venv` in the working directory and `.venv` in the checkout
/// that this binary was built from.
pub fn candidates(given: Option<&Path>) -> Vec<Environment> {
    let one = |folder: PathBuf, from: &str| Environment { folder: std::path::absolute(&folder).unwrap_or(folder), from: from.into() };
    if let Some(folder) = given {
        return vec![one(folder.to_path_buf(), FLAG)];
    }
    if let Some(folder) = std::env::var_os(VARIABLE).filter(|folder| !folder.is_empty()) {
        return vec![one(folder.into(), VARIABLE)];
    }
    let mut all = Vec::new();
    if let Some(folder) = std::env::var_os("VIRTUAL_ENV").filter(|folder| !folder.is_empty()) {
        all.push(one(folder.into(), "VIRTUAL_ENV"));
    }
    all.push(one(".venv".into(), "./.venv"));
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    if checkout.join("Cargo.toml").is_file() {
        let own = one(checkout.join(".venv"), "the checkout's .venv");
        if !all.iter().any(|known| known.folder == own.folder) {
            all.push(own);
        }
    }
    all
}

/// The environment of the host, if Python is the host.
pub fn of_host(prefix: PathBuf) -> Environment {
    Environment { folder: prefix, from: "the running Python".into() }
}

/// Finds an environment that can be embedded and has all packages.
///
/// # Errors
/// Kind `setup`, with the reason for each candidate.
pub fn find(given: Option<&Path>) -> Result<Environment> {
    let candidates = candidates(given);
    if let Some(found) = candidates.iter().find(|one| one.incompatibility().is_none() && one.missing_packages().is_empty()) {
        return Ok(found.clone());
    }
    let reasons: Vec<String> = candidates
        .iter()
        .map(|one| {
            let why = one.incompatibility().unwrap_or_else(|| {
                let missing: Vec<String> = one.missing_packages().iter().map(ToString::to_string).collect();
                format!("{} lacks {}", one.folder.display(), missing.join(", "))
            });
            format!("{}: {why}", one.from)
        })
        .collect();
    Err(error::setup(format!(
        "no Python environment has all required packages; run `pyrust-nn setup` to create one ({DOWNLOAD_SIZE}), or name another with --python-env\n  {}",
        reasons.join("\n  ")
    )))
}

/// Finds an environment, or creates the last of the candidates (the checkout's `.venv`, otherwise `./.venv`). For a step (`named` is false)
/// none is created that the user names, because its name may be mistyped.
pub fn find_or_create(given: Option<&Path>, named: bool, offline: bool) -> Result<Environment> {
    find(given).or_else(|missing| {
        let target = to_create(missing, given, named, offline)?;
        create(&target)?;
        Ok(target)
    })
}

/// Checks that a step will have an environment. `setup`: one may be created. Changes nothing.
///
/// # Errors
/// Kind `setup`.
pub fn check(given: Option<&Path>, setup: bool, offline: bool) -> Result<()> {
    let found = find(given);
    if setup { found.or_else(|missing| to_create(missing, given, false, offline)).map(drop) } else { found.map(drop) }
}

/// The environment to create where none is found.
fn to_create(missing: anyhow::Error, given: Option<&Path>, named: bool, offline: bool) -> Result<Environment> {
    let Some(target) = candidates(given).pop() else { return Err(missing) };
    if !named && [FLAG, VARIABLE].contains(&target.from.as_str()) && !target.folder.exists() {
        let (from, folder) = (&target.from, target.folder.display());
        return Err(error::setup(format!(
            "{from}: {folder} does not exist; check the path, or create it with `pyrust-nn setup --python-env {folder}` ({DOWNLOAD_SIZE})"
        )));
    }
    if offline {
        return Err(missing.context("setup needs the network, which --offline forbids"));
    }
    check_creatable(&target).map_err(|why| missing.context(why.to_string()))?;
    Ok(target)
}

/// Creates an environment from the locked list, or completes one that `setup` created before.
///
/// # Errors
/// Kind `setup` if the folder was not created by `setup`, or if the installation fails.
pub fn create(target: &Environment) -> Result<()> {
    let folder = &target.folder;
    check_creatable(target)?;
    let _lock = lock_folder(folder).with_context(|| format!("{} cannot be created", folder.display()))?;
    if target.incompatibility().is_none() && target.missing_packages().is_empty() {
        return Ok(()); // another process has completed it
    }
    info!("creating a Python environment in {}: {DOWNLOAD_SIZE}", folder.display());
    if target.incompatibility().is_some() {
        for entry in fs::read_dir(folder)?.flatten().filter(|entry| entry.file_name() != MARKER) {
            files::remove(&entry.path())?;
        }
        let venv = run(Command::new(PYTHON_EXECUTABLE).args(["-I", "-m", "venv"]).arg(folder));
        venv.context("Python's venv module failed; on Debian and Ubuntu it is the package python3-venv")?;
    }
    let list = folder.join("requirements.txt");
    files::write_whole(&list, assets::text("requirements.txt").unwrap_or_default().as_bytes())?;
    install(target, &list)?;
    let missing = target.missing_packages();
    if !missing.is_empty() {
        let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
        return Err(error::setup(format!("{} still lacks {} after the installation", folder.display(), missing.join(", "))));
    }
    info!("the Python environment {} is ready", folder.display());
    Ok(())
}

/// Whether [`create`] may make an environment there.
fn check_creatable(target: &Environment) -> Result<()> {
    let folder = &target.folder;
    if folder.exists() && !target.is_managed() && fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(error::setup(format!(
            "{} exists and was not created by `pyrust-nn setup`, so nothing is installed into it; install the packages there yourself \
             (requirements.txt), move it away, or name another with --python-env",
            folder.display()
        )));
    }
    if PYTHON_EXECUTABLE.is_empty() {
        return Err(error::setup("this build embeds no Python; install the packages with pip into the environment that runs it"));
    }
    Ok(())
}

/// Locks the folder of an environment. Waits while another process creates it. An empty folder gets the marker first, so that an
/// interrupted `setup` can be continued.
fn lock_folder(folder: &Path) -> Result<LockFile> {
    files::create_folders(folder)?;
    let mut marker = LockFile::open(&folder.join(MARKER))?;
    if marker.try_lock().is_err() {
        info!("another process is creating the environment in {}; waiting for it", folder.display());
        marker.lock()?;
    }
    if marker.is_empty()? {
        marker.set(&format!("{}\n", serde_json::json!({"made_by": "pyrust-nn setup", "version": env!("CARGO_PKG_VERSION")})))?;
    }
    Ok(marker)
}

/// Installs the locked list. Every file is checked against its hash. Uses uv, which is fast, otherwise pip, which reads local settings.
fn install(target: &Environment, list: &Path) -> Result<()> {
    let python = target.python();
    let pip = |arguments: &[&str]| {
        let mut command = Command::new(&python);
        command.args(["-I", "-m", "pip", "--disable-pip-version-check"]).args(arguments);
        command
    };
    let uv_only = target.folder.join("requirements-uv.txt");
    files::write_whole(&uv_only, locked_entry("uv").as_bytes())?;
    let uv = run(pip(&["install", "--quiet", "--require-hashes", "-r"]).arg(&uv_only)).and_then(|()| {
        run(Command::new(&python)
            .args(["-I", "-m", "uv", "pip", "install", "--require-hashes", "--python"])
            .arg(&python)
            .arg("-r")
            .arg(list))
    });
    if let Err(cause) = uv {
        warning!("uv could not install ({cause:#}); trying pip, which takes longer");
        run(pip(&["install", "--require-hashes", "-r"]).arg(list))
            .context("the packages could not be installed; check the network and the space on the disk, then run `pyrust-nn setup` again to continue")?;
    }
    Ok(())
}

/// The lines of a package in the locked list.
fn locked_entry(name: &str) -> String {
    let mut lines = assets::text("requirements.txt").unwrap_or_default().lines().skip_while(|line| !line.starts_with(&format!("{name}==")));
    let first = lines.next().unwrap_or_default();
    std::iter::once(first).chain(lines.take_while(|line| line.trim_start().starts_with("--hash"))).flat_map(|line| [line, "\n"]).collect()
}

/// Runs a command. Its output goes to stderr, because stdout belongs to the caller.
fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let status = command.stdin(Stdio::null()).stdout(std::io::stderr()).status();
    let status = status.map_err(|cause| error::setup(format!("{shown} cannot be started: {cause}")))?;
    if status.success() { Ok(()) } else { Err(error::setup(format!("{shown} ended with {status}"))) }
}

/// The required packages in pyproject.toml: names and version ranges.
pub fn requirements() -> Vec<(String, String)> {
    let text = assets::text("pyproject.toml").unwrap_or_default();
    let table: toml::Table = toml::from_str(text).unwrap_or_default();
    let list = table.get("project").and_then(|project| project.get("dependencies")).and_then(toml::Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(toml::Value::as_str)
        .map(|line| {
            let at = line.find(['>', '<', '=']).unwrap_or(line.len());
            (line[..at].trim().to_string(), line[at..].trim().to_string())
        })
        .collect()
}

/// Normalized names and versions of the installed packages.
pub fn installed(site_packages: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(site_packages).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let (name, version) = name.strip_suffix(".dist-info")?.rsplit_once('-')?;
            Some((normalize(name), version.to_string()))
        })
        .collect()
}

fn normalize(name: &str) -> String {
    name.to_lowercase().replace(['_', '.'], "-")
}

/// Whether a version is in a range such as `>=2.15,<3`. Local parts such as `+cpu` are ignored.
fn is_in_range(version: &str, range: &str) -> bool {
    let numbers = |text: &str| -> Vec<u64> {
        let text = text.split('+').next().unwrap_or_default();
        text.split('.').map(|part| part.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)).collect()
    };
    let compare = |a: &str, b: &str| {
        let (mut a, mut b) = (numbers(a), numbers(b));
        let length = a.len().max(b.len());
        a.resize(length, 0);
        b.resize(length, 0);
        a.cmp(&b)
    };
    range.split(',').map(str::trim).filter(|part| !part.is_empty()).all(|part| {
        if let Some(least) = part.strip_prefix(">=") {
            compare(version, least).is_ge()
        } else if let Some(limit) = part.strip_prefix('<') {
            compare(version, limit).is_lt()
        } else {
            false
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_pip_reads_them() {
        for (version, range, wanted) in [
            ("2.15.0", ">=2.15,<3", true),
            ("2.15.0+cpu", ">=2.15,<3", true),
            ("2.9.1", ">=2.15,<3", false),
            ("3.0", ">=2.15,<3", false),
            ("0.19", ">=0.19,<0.20", true),
            ("0.20.0", ">=0.19,<0.20", false),
        ] {
            assert_eq!(is_in_range(version, range), wanted, "{version} in {range}");
        }
    }

    #[test]
    fn every_requirement_has_a_range_that_is_understood_and_a_lock() {
        let requirements = requirements();
        assert!(requirements.len() > 5);
        for (name, range) in requirements {
            let least = range.split(',').next().unwrap().trim_start_matches(">=");
            assert!(is_in_range(least, &range), "{name} {range}");
            let entry = locked_entry(&name);
            assert!(entry.contains("--hash=sha256:"), "{name} is not locked; run `make lock`");
            let locked = entry.split("==").nth(1).unwrap().split_whitespace().next().unwrap();
            assert!(is_in_range(locked, &range), "{name} is locked at {locked}, outside {range}; run `make lock`");
        }
        assert!(locked_entry("uv").contains("--hash=sha256:"));
    }

    #[test]
    fn an_environment_not_created_by_setup_is_never_changed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("pyvenv.cfg"), "version = 3.11.0\n").unwrap();
        let target = Environment { folder: folder.path().to_path_buf(), from: "test".into() };
        let message = create(&target).unwrap_err().to_string();
        assert!(message.contains("not created by"), "{message}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_interrupted_setup_leaves_a_folder_that_the_next_one_continues() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join(".venv");
        let lock = lock_folder(&folder).unwrap();
        let target = Environment { folder: folder.clone(), from: "test".into() };
        assert!(target.is_managed(), "marked before it has other files");
        fs::create_dir(folder.join("bin")).unwrap(); // created by venv before the interruption
        let waiting = std::thread::spawn(move || lock_folder(&folder).map(drop));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!waiting.is_finished(), "the second process waits for the first");
        drop(lock);
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn another_python_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        fs::write(folder.path().join("bin/python"), "").unwrap();
        fs::write(folder.path().join("pyvenv.cfg"), "version = 3.7.2\n").unwrap();
        let why = Environment { folder: folder.path().to_path_buf(), from: "test".into() }.incompatibility().unwrap();
        assert!(why.contains("3.7.2") && why.contains(PYTHON_VERSION), "{why}");
    }
}
