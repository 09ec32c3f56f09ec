//! Text to token ids, equal to Hugging Face tokenizers', for the byte-level BPE of Qwen.
//!
//! [`Tokenizer::open`] takes the fast way where `tokenizer.json` is what it knows, else the `tokenizers` library. What it took is
//! compared with that library on the user's own text; see [`Tokenizer::excerpt`].
//!
//! This implementation is used for a byte-level BPE with one of Qwen's two patterns. Its parsed tables are cached and load in
//! milliseconds, while the `tokenizers` library needs half a second or more for a tokenizer.json of 151,936 tokens. Most words are
//! found whole with one lookup.
//!
//! The `tokenizers` library is the reference for a sample of every data set, and the fallback. The normalizer is always the library's,
//! so that there is only one version of Unicode.

mod block;
mod bpe;
mod file;
mod hf;
mod pretokenize;
mod subset;
mod vocabulary;
mod word_cache;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aho_corasick::{AhoCorasick, MatchKind};
use anyhow::Result;
use unicode_normalization_alignments::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use crate::base::files;
use file::Added;
use file::Rules;
use file::TokenizerFile;
use hf::Reference;
use vocabulary::Vocabulary;

pub(crate) use file::{tokenizer_head, vocabulary_and_merges};
pub use subset::Excerpt;
pub use word_cache::Scratch;

/// A tokenizer, shared by all threads.
#[derive(Debug)]
pub struct Tokenizer {
    path: PathBuf,
    /// What stands in it.
    file: Arc<String>,
    /// Hash of `tokenizer.json`.
    pub digest: u128,
    /// Special tokens: they alone are control tokens, and text never becomes one.
    control: Matcher,
    /// Added tokens that are not special: text becomes one wherever it spells it.
    added: Matcher,
    engine: Engine,
}

#[derive(Debug)]
enum Engine {
    Fast(Box<Vocabulary>),
    Reference(Arc<Reference>),
}

/// A control token in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    pub id: u32,
    /// Where it is spelled.
    pub spelled: Range<usize>,
    /// As `spelled`, with the white space around it that it takes along.
    pub taken: Range<usize>,
}

/// Texts that stand for a token, and where they are found: the leftmost, of several there the longest.
#[derive(Debug)]
struct Matcher {
    texts: Vec<String>,
    ids: Vec<u32>,
    rules: Vec<Rules>,
    automaton: AhoCorasick,
}

impl Matcher {
    fn new<'a>(tokens: impl Iterator<Item = &'a Added>) -> Result<Matcher> {
        let tokens: Vec<&Added> = tokens.collect();
        let texts: Vec<String> = tokens.iter().map(|token| token.content.clone()).collect();
        let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&texts)?;
        Ok(Matcher {
            texts,
            ids: tokens.iter().map(|token| token.id).collect(),
            rules: tokens.iter().map(|token| token.rules).collect(),
            automaton,
        })
    }

    fn find_iter<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (usize, usize, u32)> + 'a {
        self.automaton.find_iter(text).map(|found| (found.start(), found.end(), self.ids[found.pattern().as_usize()]))
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json` in `folder`; with a `cache`, its parsed form from there or into it.
    ///
    /// # Errors
    /// Kind `model`: no tokenizer.json, or one that cannot be read.
    pub fn open(folder: &Path, cache: Option<&Path>) -> Result<Tokenizer> {
        let path = folder.join("tokenizer.json");
        let file = TokenizerFile::read(&path)?;
        let added = |special: bool| file.added.iter().filter(move |token| token.special == special);
        let control = Matcher::new(added(true))?;
        let plain = Matcher::new(added(false))?;
        let cached = cache.map(|cache| cache.join("tokenizers").join(format!("{:032x}.{}", file.digest, vocabulary::EXTENSION)));
        let mut vocabulary = cached.as_deref().and_then(Vocabulary::read);
        if vocabulary.is_none() {
            vocabulary = file.parse()?.as_ref().and_then(Vocabulary::build);
            if let (Some(made), Some(cached)) = (&vocabulary, &cached) {
                // A cache that cannot be written costs time, nothing else.
                if cached.parent().is_some_and(|folder| files::create_folders(folder).is_ok()) {
                    drop(made.write(cached));
                }
            }
        }
        let engine = match vocabulary {
            Some(vocabulary) => Engine::Fast(Box::new(vocabulary)),
            None => {
                info!("{}: not the byte-level BPE of Qwen, so the tokenizers library does it, more slowly", path.display());
                Engine::Reference(Reference::open(&path, file.digest)?)
            }
        };
        Ok(Tokenizer { path, file: file.text, digest: file.digest, control, added: plain, engine })
    }

    /// The same tokenizer by the `tokenizers` library, for a few texts that come later; nothing where the library does it all already.
    pub fn excerpt(&self) -> Option<Excerpt> {
        self.is_fast().then(|| Excerpt::read(Arc::clone(&self.file)))
    }

    /// The library's tokenizer for the texts that were asked for, or, of a file that is not as we know it, for all.
    pub fn reference(&self, excerpt: Excerpt) -> Result<Arc<Reference>> {
        excerpt.reference().map(Arc::new).or_else(|_| Reference::open(&self.path, self.digest))
    }

    /// The first text, cut at its control tokens, for which the library has other ids.
    pub fn differs<'a>(&self, reference: &Reference, texts: impl Iterator<Item = &'a str>) -> Result<Option<String>> {
        let mut scratch = Scratch::default();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for text in texts {
            let mut done = 0;
            let end = text.len()..text.len();
            let pieces = self.control_tokens(text).map(|found| found.taken).chain(std::iter::once(end));
            for taken in pieces {
                let piece = &text[done..taken.start];
                ours.clear();
                theirs.clear();
                self.encode(piece, &mut scratch, &mut ours)?;
                reference.encode(piece, &mut theirs)?;
                if ours != theirs {
                    return Ok(Some(format!("{:?}", piece.chars().take(60).collect::<String>())));
                }
                done = taken.end;
            }
        }
        Ok(None)
    }

    /// From now on the library does it all.
    pub fn fall_back(&mut self) -> Result<()> {
        self.engine = Engine::Reference(Reference::open(&self.path, self.digest)?);
        Ok(())
    }

    /// Whether the fast way is taken.
    pub fn is_fast(&self) -> bool {
        matches!(self.engine, Engine::Fast(_))
    }

    /// The control tokens in a text, found as `AddedVocabulary` of the tokenizers library does.
    pub fn control_tokens<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Control> + 'a {
        let mut done = 0;
        self.control.automaton.find_iter(text).filter_map(move |found| {
            let number = found.pattern().as_usize();
            let (rules, spelled) = (self.control.rules[number], found.start()..found.end());
            let (before, behind) = (&text[..spelled.start], &text[spelled.end..]);
            let in_word = |c: Option<char>| c.is_some_and(|c| c == '_' || c.is_alphanumeric());
            if rules.single_word && (in_word(before.chars().next_back()) || in_word(behind.chars().next())) {
                return None;
            }
            let start = if rules.lstrip { before.trim_end().len().max(done) } else { spelled.start };
            done = if rules.rstrip { text.len() - behind.trim_start().len() } else { spelled.end };
            Some(Control { id: self.control.ids[number], spelled, taken: start..done })
        })
    }

    /// The texts of the control tokens.
    pub fn control_texts(&self) -> &[String] {
        &self.control.texts
    }

    /// Appends the ids of a text in which what spells a control token is text.
    pub fn encode(&self, text: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) -> Result<()> {
        let vocabulary = match &self.engine {
            Engine::Reference(reference) => return reference.encode(text, ids),
            Engine::Fast(vocabulary) => vocabulary,
        };
        if self.added.texts.is_empty() {
            encode_words(vocabulary, text, scratch, ids);
            return Ok(());
        }
        let mut done = 0;
        for (begin, end, id) in self.added.find_iter(text) {
            encode_words(vocabulary, &text[done..begin], scratch, ids);
            ids.push(id);
            done = end;
        }
        encode_words(vocabulary, &text[done..], scratch, ids);
        Ok(())
    }

    /// The bytes that a token, one that `encode` or `control_tokens` gave, stands for.
    pub fn bytes(&self, id: u32) -> Vec<u8> {
        let whole = [&self.control, &self.added].into_iter().find_map(|known| {
            let at = known.ids.iter().position(|known| *known == id)?;
            Some(known.texts[at].clone().into_bytes())
        });
        whole.unwrap_or_else(|| match &self.engine {
            Engine::Reference(reference) => reference.bytes(id),
            Engine::Fast(vocabulary) => vocabulary.content(id).to_vec(),
        })
    }

    /// Whether an id is a control token's.
    pub fn is_control(&self, id: u32) -> bool {
        self.control.ids.contains(&id)
    }

    /// The bytes of a text as [`Tokenizer::lengths`] counts them.
    pub fn length(&self, text: &str) -> usize {
        match &self.engine {
            Engine::Fast(_) if !is_normal(text) => text.nfc().map(|(c, _)| c.len_utf8()).sum(),
            _ => text.len(),
        }
    }

    /// How many bytes of the text each of its tokens takes, by `encode`; the fast way counts those of the normalized text (NFC).
    pub fn lengths(&self, text: &str, ids: &[u32]) -> Result<Vec<usize>> {
        match &self.engine {
            Engine::Reference(reference) => reference.lengths(text),
            Engine::Fast(vocabulary) => {
                let added = |id: &u32| self.added.ids.iter().position(|known| known == id).map(|i| self.added.texts[i].len());
                Ok(ids.iter().map(|id| added(id).unwrap_or_else(|| vocabulary.content(*id).len())).collect())
            }
        }
    }
}

fn encode_words(vocabulary: &Vocabulary, text: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) {
    if is_normal(text) {
        return scratch.encode_words(vocabulary, text, ids);
    }
    let normalized: String = text.nfc().map(|(c, _)| c).collect();
    scratch.encode_words(vocabulary, &normalized, ids);
}

fn is_normal(text: &str) -> bool {
    text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes
}
