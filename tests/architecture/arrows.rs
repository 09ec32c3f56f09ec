//! Which file of `src/` uses an item of which other file, read from the tokens of the code: through `use`, qualified paths, `super::`,
//! re-exports, globs and our own macros. Code that only tests compile is left out. A method call names no file, so it makes no arrow;
//! whoever calls one has named its type or got the value from somebody who did.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A source file, which is one module.
#[derive(Default)]
pub struct SourceFile {
    /// Relative to `src/`.
    pub path: String,
    /// Its modules within each other, such as `["data", "read"]`; empty for lib.rs.
    pub module: Vec<String>,
    defines: BTreeSet<String>,
    /// Of these, the types and traits.
    types: BTreeSet<String>,
    macros: BTreeSet<String>,
    children: BTreeSet<String>,
    test_children: BTreeSet<String>,
    imports: Vec<Import>,
    /// Paths of several names outside of `use`.
    paths: Vec<Vec<String>>,
    /// Single names outside of `use`.
    words: BTreeSet<String>,
    invoked: BTreeSet<String>,
}

struct Import {
    /// The name here; `*` for a glob.
    name: String,
    path: Vec<String>,
    public: bool,
}

/// All files of a crate by their module.
pub struct Crate(BTreeMap<Vec<String>, SourceFile>);

impl Crate {
    pub fn read(src: &Path) -> Crate {
        let mut files: BTreeMap<Vec<String>, SourceFile> = BTreeMap::new();
        for path in rust_files(src) {
            let relative = path.strip_prefix(src).unwrap().to_string_lossy().into_owned();
            if relative == "main.rs" {
                continue; // another crate, which uses the library from outside
            }
            let mut module: Vec<String> = relative.trim_end_matches(".rs").split('/').map(ToString::to_string).collect();
            if module.last().is_some_and(|last| last == "mod" || last == "lib") {
                module.pop();
            }
            let mut file = SourceFile { path: relative, module: module.clone(), ..SourceFile::default() };
            let text = fs::read_to_string(&path).unwrap();
            let tokens: TokenStream = text.parse().unwrap_or_else(|cause| panic!("{}: {cause}", file.path));
            file.items(tokens);
            files.insert(module, file);
        }
        let tests: Vec<Vec<String>> =
            files.values().flat_map(|file| file.test_children.iter().map(|child| joined(&file.module, child))).collect();
        files.retain(|module, _| !tests.iter().any(|test| module.starts_with(test)));
        Crate(files)
    }

    /// For each file what its code names, that of its tests left out.
    pub fn names(&self) -> impl Iterator<Item = (&str, Vec<Name>)> {
        self.0.values().map(|file| (file.path.as_str(), file.names()))
    }

    /// For each type and trait the files that define one of that name.
    pub fn types(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for file in self.0.values() {
            for name in &file.types {
                found.entry(name).or_default().push(&file.path);
            }
        }
        found
    }

    /// For each file the files whose items it uses.
    pub fn arrows(&self) -> BTreeMap<String, BTreeSet<String>> {
        let macros: BTreeMap<&str, &str> =
            self.0.values().flat_map(|file| file.macros.iter().map(|name| (name.as_str(), file.path.as_str()))).collect();
        let mut arrows = BTreeMap::new();
        for file in self.0.values() {
            let mut used = BTreeSet::new();
            // A re-export is a list entry; it is a use where the file also names it.
            let imports = file.imports.iter().filter(|import| !import.public || file.words.contains(&import.name));
            let named = imports.clone().filter(|import| import.name != "*").map(|import| import.path.clone());
            let globs = imports.filter(|import| import.name == "*");
            let through_globs = globs.flat_map(|import| file.words.iter().map(|word| joined(&import.path, word)));
            for path in named.chain(through_globs).chain(file.paths.iter().cloned()) {
                used.extend(self.defining(&file.module, &path, 0));
            }
            let ours = file.invoked.iter().filter(|name| !file.imports.iter().any(|import| import.name == **name));
            used.extend(ours.filter_map(|name| macros.get(name.as_str())).map(ToString::to_string));
            used.remove(&file.path);
            arrows.insert(file.path.clone(), used);
        }
        arrows
    }

    /// The file that defines what a path leads to, seen from a module; nothing for a module itself or another crate's item.
    fn defining(&self, from: &[String], path: &[String], depth: usize) -> Option<String> {
        if depth > 20 {
            return None;
        }
        let mut module = from.to_vec();
        let mut rest = path;
        let mut anchored = false;
        while let Some(first) = rest.first() {
            match first.as_str() {
                "crate" => module.clear(),
                "self" => {}
                "super" => drop(module.pop()),
                _ => break,
            }
            anchored = true;
            rest = &rest[1..];
        }
        loop {
            let (first, after) = rest.split_first()?;
            let file = self.0.get(&module)?;
            if file.children.contains(first) {
                module.push(first.clone());
                rest = after;
                anchored = true;
                continue;
            }
            if file.defines.contains(first) {
                return (anchored || depth > 0 || file.module != from).then(|| file.path.clone());
            }
            for import in &file.imports {
                let target = if import.name == *first {
                    [&import.path[..], after].concat()
                } else if import.name == "*" {
                    [&import.path[..], rest].concat()
                } else {
                    continue;
                };
                if let Some(found) = self.defining(&module, &target, depth + 1) {
                    return Some(found);
                }
            }
            return None;
        }
    }
}

/// A path that stands in code, such as `fs::write` or a single word.
pub struct Name {
    pub path: Vec<String>,
    /// What `use` calls it here; `*` for a glob.
    pub imported_as: Option<String>,
}

/// What some code names, that of its tests left out.
pub fn names_in(code: &str) -> Vec<Name> {
    let mut file = SourceFile::default();
    file.items(code.parse().unwrap());
    file.names()
}

impl SourceFile {
    fn names(&self) -> Vec<Name> {
        let imports = self.imports.iter().map(|import| Name { path: import.path.clone(), imported_as: Some(import.name.clone()) });
        let words = self.words.iter().map(|word| vec![word.clone()]);
        imports.chain(self.paths.iter().cloned().chain(words).map(|path| Name { path, imported_as: None })).collect()
    }

    /// The items of a module, those for tests left out.
    fn items(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        let mut public = false;
        while at < tokens.len() {
            if let Some(length) = attribute(&tokens[at..]) {
                if for_tests(&tokens[at..at + length]) {
                    at += length;
                    let end = at + item_length(&tokens[at..]);
                    if let Some(name) = module_name(&tokens[at..end]) {
                        self.test_children.insert(name);
                    }
                    at = end;
                } else {
                    at += length;
                }
                continue;
            }
            match word(tokens.get(at)).as_deref() {
                Some("pub") => {
                    public = true;
                    let restricted =
                        matches!(tokens.get(at + 1), Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis);
                    at += 1 + usize::from(restricted);
                    continue;
                }
                Some("use") if character(tokens.get(at + 1)) != Some('<') => {
                    let end = at + tokens[at..].iter().position(|token| punctuation(token, ';')).unwrap();
                    self.imported(&tokens[at + 1..end], &[], public);
                    at = end + 1;
                }
                Some("mod") => {
                    if let (Some(name), Some(';')) = (word(tokens.get(at + 1)), character(tokens.get(at + 2))) {
                        self.children.insert(name);
                    }
                    at += 2;
                }
                Some("macro_rules") => {
                    let name = word(tokens.get(at + 2)).unwrap();
                    self.defines.insert(name.clone());
                    self.macros.insert(name);
                    self.body(&tokens[at + 3..at + 4]);
                    at += 4;
                }
                Some(keyword @ ("fn" | "struct" | "enum" | "trait" | "type" | "const" | "static" | "union")) => {
                    let mut name = at + 1;
                    while matches!(word(tokens.get(name)).as_deref(), Some("mut" | "fn" | "unsafe" | "extern")) {
                        name += 1;
                    }
                    if ["struct", "enum", "trait", "type", "union"].contains(&keyword) {
                        self.types.extend(word(tokens.get(name)));
                    }
                    self.defines.extend(word(tokens.get(name)));
                    at += 1;
                }
                _ => {
                    at += self.expression(&tokens, at);
                }
            }
            public = false;
        }
    }

    /// What stands within an item.
    fn body(&mut self, tokens: &[TokenTree]) {
        let mut at = 0;
        while at < tokens.len() {
            // `impl Trait + use<>` is no import.
            if word(tokens.get(at)).as_deref() == Some("use") && character(tokens.get(at + 1)) != Some('<') {
                let end = tokens[at..].iter().position(|token| punctuation(token, ';')).map_or(tokens.len(), |length| at + length);
                self.imported(&tokens[at + 1..end], &[], false);
                at = end;
                continue;
            }
            at += self.expression(tokens, at);
        }
    }

    /// One name, path, group or sign; how many tokens it takes.
    fn expression(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        match &tokens[at] {
            TokenTree::Group(group) => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                self.body(&inner);
                1
            }
            TokenTree::Ident(name) => {
                let mut path = vec![name.to_string()];
                let mut end = at + 1;
                while colons(&tokens[end..]) {
                    let Some(next) = word(tokens.get(end + 2)) else { break };
                    path.push(next);
                    end += 3;
                }
                if tokens.get(end).is_some_and(|token| punctuation(token, '!')) {
                    self.invoked.insert(path[path.len() - 1].clone());
                }
                if path.len() > 1 {
                    self.paths.push(path);
                } else {
                    self.words.insert(name.to_string());
                }
                end - at
            }
            _ => 1,
        }
    }

    /// The tree behind `use`.
    fn imported(&mut self, tokens: &[TokenTree], before: &[String], public: bool) {
        let mut path = before.to_vec();
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Ident(name) if *name == "as" => {
                    let name = word(tokens.get(at + 1)).unwrap();
                    return self.imports.push(Import { name, path, public });
                }
                TokenTree::Ident(name) => path.push(name.to_string()),
                TokenTree::Group(group) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    for one in inner.split(|token| punctuation(token, ',')).filter(|one| !one.is_empty()) {
                        self.imported(one, &path, public);
                    }
                    return;
                }
                sign if punctuation(sign, '*') => return self.imports.push(Import { name: "*".into(), path, public }),
                _ => {}
            }
            at += 1;
        }
        if path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        if let Some(name) = path.last().cloned() {
            self.imports.push(Import { name, path, public });
        }
    }
}

/// Groups of files that reach each other, each with more than one file.
pub fn circles(arrows: &BTreeMap<String, BTreeSet<String>>) -> Vec<BTreeSet<String>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> = arrows.keys().map(|file| (file.as_str(), reach(file, arrows))).collect();
    let mut found: Vec<BTreeSet<String>> = Vec::new();
    for (file, all) in &reached {
        let circle: BTreeSet<String> = all.iter().filter(|other| reached[*other].contains(file)).map(ToString::to_string).collect();
        if !circle.is_empty() && !found.contains(&circle) {
            found.push(circle);
        }
    }
    found
}

fn reach<'a>(from: &str, arrows: &'a BTreeMap<String, BTreeSet<String>>) -> BTreeSet<&'a str> {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut next: Vec<&str> = arrows[from].iter().map(String::as_str).collect();
    while let Some(file) = next.pop() {
        if seen.insert(file) {
            next.extend(arrows[file].iter().map(String::as_str));
        }
    }
    seen
}

pub fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn joined(path: &[String], name: &str) -> Vec<String> {
    path.iter().cloned().chain([name.to_string()]).collect()
}

fn word(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(name)) => Some(name.to_string()),
        _ => None,
    }
}

fn character(token: Option<&TokenTree>) -> Option<char> {
    match token {
        Some(TokenTree::Punct(sign)) => Some(sign.as_char()),
        _ => None,
    }
}

fn punctuation(token: &TokenTree, sign: char) -> bool {
    character(Some(token)) == Some(sign)
}

fn colons(tokens: &[TokenTree]) -> bool {
    character(tokens.first()) == Some(':') && character(tokens.get(1)) == Some(':')
}

/// The tokens of an attribute, if one begins here.
fn attribute(tokens: &[TokenTree]) -> Option<usize> {
    if character(tokens.first()) != Some('#') {
        return None;
    }
    Some(if character(tokens.get(1)) == Some('!') { 3 } else { 2 })
}

fn for_tests(attribute: &[TokenTree]) -> bool {
    attribute.last().is_some_and(|group| group.to_string().replace(' ', "") == "[cfg(test)]")
}

/// The tokens of an item: up to its `;` or its braces.
fn item_length(tokens: &[TokenTree]) -> usize {
    let ends =
        |token: &TokenTree| punctuation(token, ';') || matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
    tokens.iter().position(ends).map_or(tokens.len(), |at| at + 1)
}

fn module_name(item: &[TokenTree]) -> Option<String> {
    let at = item.iter().position(|token| word(Some(token)).as_deref() == Some("mod"))?;
    word(item.get(at + 1))
}
