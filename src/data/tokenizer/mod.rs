//! Tokenizes text to the same ids as Hugging Face tokenizers, for the byte-level BPE of Qwen.
//!
//! [`Tokenizer::open`] uses the fast implementation if it knows the type of `tokenizer.json`, otherwise the `tokenizers` library. The fast
//! implementation is compared with the library on the user's text; see [`Tokenizer::start_subset`].
//!
//! This implementation is used for a byte-level BPE with one of Qwen's two patterns. Its parsed tables are cached and load in
//! milliseconds, while the `tokenizers` library needs half a second or more for a tokenizer.json of 151,936 tokens. Most words are
//! found whole with one lookup.
//!
//! The `tokenizers` library is the reference for a sample of every data set, and the fallback. The normalizer is always the library's,
//! so that there is only one version of Unicode.

mod bpe;
mod bpe_vocabulary;
mod byte_classes;
mod hf_tokenizer;
mod merge;
mod pretokenize;
mod subset_tokenizer;
mod token_ids;
mod tokenizer_file;
mod word_cache;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aho_corasick::{AhoCorasick, MatchKind};
use anyhow::Result;
use log::Level;
use unicode_normalization_alignments::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use crate::base::{cache, files, logging};
use bpe_vocabulary::BpeVocabulary;
use hf_tokenizer::HfTokenizer;
use tokenizer_file::AddedToken;
use tokenizer_file::MatchRules;
use tokenizer_file::TokenizerFile;

pub use subset_tokenizer::SubsetTokenizer;
pub(crate) use token_ids::{MAX_IDS, check_tokenizer};
pub(crate) use tokenizer_file::{special_tokens, tokenizer_head, vocabulary_and_merges};
pub use word_cache::WordCache;

/// A tokenizer, shared by all threads.
#[derive(Debug)]
pub struct Tokenizer {
    path: PathBuf,
    /// Content of `tokenizer.json`.
    file: Arc<String>,
    /// Hash of `tokenizer.json`.
    pub digest: u128,
    /// Special tokens. Plain text is never encoded as one of them.
    control: TokenMatcher,
    /// Added tokens that are not special. They are matched in plain text.
    added: TokenMatcher,
    engine: Backend,
}

#[derive(Debug)]
enum Backend {
    Fast(Box<BpeVocabulary>),
    Library(Arc<HfTokenizer>),
}

/// A special token in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlToken {
    pub id: u32,
    /// Range of the token's text.
    pub spelled: Range<usize>,
    /// `spelled` with the surrounding whitespace that the token includes.
    pub taken: Range<usize>,
}

/// Finds the texts of tokens: the leftmost match and, of several there, the longest.
#[derive(Debug)]
struct TokenMatcher {
    texts: Vec<String>,
    ids: Vec<u32>,
    rules: Vec<MatchRules>,
    automaton: AhoCorasick,
}

impl TokenMatcher {
    fn new<'a>(tokens: impl Iterator<Item = &'a AddedToken>) -> Result<TokenMatcher> {
        let tokens: Vec<&AddedToken> = tokens.collect();
        let texts: Vec<String> = tokens.iter().map(|token| token.content.clone()).collect();
        let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&texts)?;
        Ok(TokenMatcher {
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
    /// Reads `tokenizer.json` in `folder`. With a `cache_folder`, the parsed form is read from it or written to it.
    ///
    /// # Errors
    /// Kind `model`: no tokenizer.json, or one that cannot be read.
    pub fn open(folder: &Path, cache_folder: Option<&Path>) -> Result<Tokenizer> {
        let path = folder.join("tokenizer.json");
        let file = TokenizerFile::read(&path)?;
        let added = |special: bool| file.added.iter().filter(move |token| token.special == special);
        let control = TokenMatcher::new(added(true))?;
        let plain = TokenMatcher::new(added(false))?;
        let cached =
            cache_folder.map(|folder| folder.join("tokenizers").join(format!("{:032x}.{}", file.digest, bpe_vocabulary::EXTENSION)));
        let mut vocabulary = cached.as_deref().filter(|cached| cache::hold(cached)).and_then(BpeVocabulary::read);
        if vocabulary.is_none() {
            vocabulary = file.parse()?.as_ref().and_then(BpeVocabulary::build);
            if let (Some(made), Some(cached)) = (&vocabulary, &cached) {
                // Failing to write the cache only costs time.
                if cached.parent().is_some_and(|folder| files::create_folders(folder).is_ok()) {
                    drop(made.write(cached));
                }
            }
        }
        let engine = match vocabulary {
            Some(vocabulary) => Backend::Fast(Box::new(vocabulary)),
            None => {
                let text = format!("{}: not the byte-level BPE of Qwen; using the tokenizers library, which is slower", path.display());
                logging::emit_once(Level::Info, module_path!(), "", &text);
                Backend::Library(HfTokenizer::open(&path, file.digest)?)
            }
        };
        Ok(Tokenizer { path, file: file.text, digest: file.digest, control, added: plain, engine })
    }

    /// Starts loading the same tokenizer in the `tokenizers` library, for a few texts that are sent later; `None` if the library is used anyway.
    pub fn start_subset(&self) -> Option<SubsetTokenizer> {
        self.is_fast().then(|| SubsetTokenizer::read(Arc::clone(&self.file)))
    }

    /// The library's tokenizer for the sent texts or, if the file has unknown fields, the complete one.
    pub fn library_tokenizer(&self, subset: SubsetTokenizer) -> Result<Arc<HfTokenizer>> {
        subset.wait().map(Arc::new).or_else(|_| HfTokenizer::open(&self.path, self.digest))
    }

    /// The first piece of text between special tokens for which the library returns different ids.
    pub fn first_difference<'a>(&self, reference: &HfTokenizer, texts: impl Iterator<Item = &'a str>) -> Result<Option<String>> {
        let mut words = WordCache::default();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for text in texts {
            let mut done = 0;
            let end = text.len()..text.len();
            let pieces = self.control_tokens(text).map(|found| found.taken).chain(std::iter::once(end));
            for taken in pieces {
                let piece = &text[done..taken.start];
                ours.clear();
                theirs.clear();
                self.encode(piece, &mut words, &mut ours)?;
                reference.encode(piece, &mut theirs)?;
                if ours != theirs {
                    return Ok(Some(format!("{:?}", piece.chars().take(60).collect::<String>())));
                }
                done = taken.end;
            }
        }
        Ok(None)
    }

    /// Uses the library from now on.
    pub fn use_library(&mut self) -> Result<()> {
        self.engine = Backend::Library(HfTokenizer::open(&self.path, self.digest)?);
        Ok(())
    }

    /// Whether the fast implementation is used.
    pub fn is_fast(&self) -> bool {
        matches!(self.engine, Backend::Fast(_))
    }

    /// The special tokens in a text, matched as `AddedVocabulary` of the tokenizers library does.
    pub fn control_tokens<'a>(&'a self, text: &'a str) -> impl Iterator<Item = ControlToken> + 'a {
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
            Some(ControlToken { id: self.control.ids[number], spelled, taken: start..done })
        })
    }

    /// The texts of the special tokens.
    pub fn control_texts(&self) -> &[String] {
        &self.control.texts
    }

    /// Appends the ids of a text. The text of special tokens is encoded as plain text.
    pub fn encode(&self, text: &str, cache: &mut WordCache, ids: &mut Vec<u32>) -> Result<()> {
        let vocabulary = match &self.engine {
            Backend::Library(reference) => return reference.encode(text, ids),
            Backend::Fast(vocabulary) => vocabulary,
        };
        if self.added.texts.is_empty() {
            encode_words(vocabulary, text, cache, ids);
            return Ok(());
        }
        let mut done = 0;
        for (begin, end, id) in self.added.find_iter(text) {
            encode_words(vocabulary, &text[done..begin], cache, ids);
            ids.push(id);
            done = end;
        }
        encode_words(vocabulary, &text[done..], cache, ids);
        Ok(())
    }

    /// The bytes of a token from `encode` or `control_tokens`.
    pub fn bytes(&self, id: u32) -> Vec<u8> {
        let whole = [&self.control, &self.added].into_iter().find_map(|known| {
            let at = known.ids.iter().position(|known| *known == id)?;
            Some(known.texts[at].clone().into_bytes())
        });
        whole.unwrap_or_else(|| match &self.engine {
            Backend::Library(reference) => reference.bytes(id),
            Backend::Fast(vocabulary) => vocabulary.content(id).to_vec(),
        })
    }

    /// The text of tokens, as the library decodes it: ids that the vocabulary does not have are left out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        if let Backend::Library(reference) = &self.engine {
            return reference.decode(ids, skip_special);
        }
        let known = self.id_count();
        let kept = ids.iter().filter(|id| **id < known && !(skip_special && self.is_control(**id)));
        let bytes: Vec<u8> = kept.flat_map(|id| self.bytes(*id)).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A number that is larger than all ids.
    pub(crate) fn id_count(&self) -> u32 {
        let added = self.control.ids.iter().chain(&self.added.ids).max().map_or(0, |id| id + 1);
        added.max(match &self.engine {
            Backend::Library(reference) => reference.size(),
            Backend::Fast(vocabulary) => vocabulary.size(),
        })
    }

    /// Whether an id is a special token's.
    pub fn is_control(&self, id: u32) -> bool {
        self.control.ids.contains(&id)
    }

    /// The length of a text in bytes, as [`Tokenizer::lengths`] counts them.
    pub fn length(&self, text: &str) -> usize {
        match &self.engine {
            Backend::Fast(_) if !is_normal(text) => text.nfc().map(|(c, _)| c.len_utf8()).sum(),
            _ => text.len(),
        }
    }

    /// The number of bytes of the text that each of its tokens covers. The fast implementation counts bytes of the normalized text (NFC).
    pub fn lengths(&self, text: &str, ids: &[u32]) -> Result<Vec<usize>> {
        match &self.engine {
            Backend::Library(reference) => reference.lengths(text),
            Backend::Fast(vocabulary) => {
                let added = |id: &u32| self.added.ids.iter().position(|known| known == id).map(|i| self.added.texts[i].len());
                Ok(ids.iter().map(|id| added(id).unwrap_or_else(|| vocabulary.content(*id).len())).collect())
            }
        }
    }
}

fn encode_words(vocabulary: &BpeVocabulary, text: &str, cache: &mut WordCache, ids: &mut Vec<u32>) {
    if is_normal(text) {
        return cache.encode_words(vocabulary, text, ids);
    }
    let normalized: String = text.nfc().map(|(c, _)| c).collect();
    cache.encode_words(vocabulary, &normalized, ids);
}

fn is_normal(text: &str) -> bool {
    text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes
}
