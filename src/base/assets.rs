//! Project files embedded in the binary: the Python package, the scripts, the sample, the lists of packages. With them the binary and
//! dependent crates run without the checkout.

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// The text of an embedded file, by its path in the project.
pub fn text(path: &str) -> Option<&'static str> {
    FILES.iter().find(|(name, _)| *name == path).map(|(_, text)| *text)
}

/// A module of the package `pyrust_nn`.
#[derive(Debug)]
pub struct Module {
    /// Full dotted name, such as `pyrust_nn.training.loop`.
    pub name: String,
    pub path: &'static str,
    pub text: &'static str,
    /// Whether it is a package, that is, an `__init__.py`.
    pub package: bool,
}

/// The modules of the package `pyrust_nn`, subpackages included.
pub fn modules() -> impl Iterator<Item = Module> {
    FILES.iter().filter_map(|(path, text)| {
        let dotted = path.strip_prefix("python/")?.strip_suffix(".py")?.replace('/', ".");
        let parent = dotted.strip_suffix(".__init__");
        Some(Module { package: parent.is_some(), name: parent.unwrap_or(&dotted).to_string(), path, text })
    })
}

#[cfg(test)]
mod tests {
    use super::modules;

    #[test]
    fn subpackages_have_dotted_names_and_a_parent_package() {
        let all: Vec<_> = modules().collect();
        let package = |name: &str| all.iter().find(|module| module.name == name).map(|module| module.package);
        assert_eq!(package("pyrust_nn"), Some(true));
        assert_eq!(package("pyrust_nn.training"), Some(true));
        assert_eq!(package("pyrust_nn.training.loop"), Some(false));
        for module in &all {
            let parent = module.name.rsplit_once('.').map(|(parent, _)| parent);
            assert!(parent.is_none_or(|parent| package(parent) == Some(true)), "{} has no parent package", module.name);
        }
    }
}
