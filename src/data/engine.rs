//! Chooses what renders and tokenizes a data set, and compares it with the libraries.
//!
//! In every run a sample is compared with the `tokenizers` library, and with transformers if the chat template is unknown. On a
//! difference the library does the work.

use std::path::{Path, PathBuf};

use anyhow::Result;
use log::Level;
use xxhash_rust::xxh3::xxh3_128;

use crate::base::{error, logging};
use crate::data::render::chat_renderer::ChatRenderer;
use crate::data::render::rendering::{Render, RenderError};
use crate::data::render::template::ChatTemplate;
use crate::data::rows::batch::{RenderProbe, Sink};
use crate::data::rows::counts::Counts;
use crate::data::rows::findings::Findings;
use crate::data::rows::options::Options;
use crate::data::rows::selection::DataPart;
use crate::data::rows::workers::{Ending, Preparation, prepare};
use crate::data::tokenizer::{SubsetTokenizer, Tokenizer};

/// Access to transformers, for templates that only it can render, and for comparison.
pub trait Transformers: Sync {
    /// A renderer for the model in `folder`; `None` if Python is not available.
    fn renderer(&self, folder: &Path) -> Result<Option<Box<dyn Render + '_>>>;

    /// Its version; `None` if Python or transformers is not available.
    fn version(&self) -> Result<Option<String>>;
}

/// For callers without Python.
#[derive(Debug)]
pub struct NoTransformers;

impl Transformers for NoTransformers {
    fn renderer(&self, _: &Path) -> Result<Option<Box<dyn Render + '_>>> {
        Ok(None)
    }

    fn version(&self) -> Result<Option<String>> {
        Ok(None)
    }
}

/// A data set, and the model for which it is prepared.
#[derive(Clone, Debug)]
pub struct Dataset {
    pub files: Vec<PathBuf>,
    /// The files' names for the user: of a converted file, the original.
    pub names: Vec<PathBuf>,
    /// The entries of `dataset_path`, with their shares.
    pub parts: Vec<DataPart>,
    /// What was noticed about the files.
    pub warnings: Vec<String>,
    /// Precedes what is logged about it: `evaluation data: `, or nothing.
    pub label: &'static str,
    /// Folder of the model, or of an adapter with its own tokenizer.
    pub model_folder: PathBuf,
    pub options: Options,
}

impl Dataset {
    /// Whether a conversation may be taken more than once, or not at all.
    pub(crate) fn is_weighted(&self) -> bool {
        self.parts.iter().any(|part| DataPart { max_rows: None, ..*part } != DataPart::whole(part.files))
    }

    /// Hash of the files' content, of their shares and, if the tokenizer has more tokens than the model, of the model's number.
    pub(crate) fn identity(&self, files: u128, tokenizer: &Tokenizer) -> Result<u128> {
        // Only with such a tokenizer can one model refuse rows that another accepts.
        let files = match self.options.embedding_rows.filter(|rows| *rows < tokenizer.id_count()) {
            Some(rows) => xxh3_128(format!("{files:x} {rows}").as_bytes()),
            None => files,
        };
        if self.parts.iter().all(|part| *part == DataPart::whole(part.files)) {
            return Ok(files);
        }
        // The seed decides which rows of a share are taken.
        Ok(xxh3_128(format!("{files:x} {} {}", self.options.seed, serde_json::to_string(&self.parts)?).as_bytes()))
    }
}

/// Whether no Python is needed to render for the model in a folder: our tests compare its template with transformers.
pub fn is_native(model_folder: &Path) -> bool {
    ChatTemplate::open(model_folder).is_ok_and(|template| template.compared && template.unsupported.is_none())
}

/// Renderer and tokenizer of a model.
pub(crate) struct DataEngine {
    pub tokenizer: Tokenizer,
    pub renderer: ChatRenderer,
}

impl DataEngine {
    pub(crate) fn open(model_folder: &Path, cache: Option<&Path>) -> Result<DataEngine> {
        let tokenizer = Tokenizer::open(model_folder, cache)?;
        let template = ChatTemplate::open(model_folder)?;
        let end_tokens = tokenizer.control_texts().to_vec();
        Ok(DataEngine { tokenizer, renderer: ChatRenderer::new(template, end_tokens) })
    }

    /// Prepares the data set. If the probes show that renderer or tokenizer differs from its library, the preparation is repeated with
    /// the library. `sink` makes a new sink for each attempt. In a survey, faults of the data are findings, not errors. The last item of
    /// the result: whether the template is unchecked, because it could not be compared.
    pub(crate) fn run<S: Sink>(
        &mut self,
        dataset: &Dataset,
        transformers: &dyn Transformers,
        survey: bool,
        mut sink: impl FnMut() -> Result<S>,
    ) -> Result<(Counts, Findings, S, bool)> {
        let folder = &dataset.model_folder;
        let template = self.renderer.template().clone();
        let mut other: Option<Box<dyn Render + '_>> = None;
        if let Some(why) = &template.unsupported {
            other = Some(needed(transformers, folder, why)?);
        }
        loop {
            let renderer: &dyn Render = other.as_deref().unwrap_or(&self.renderer);
            let excerpt = self.tokenizer.start_subset();
            let ask = |probes: &[RenderProbe]| excerpt.iter().for_each(|excerpt| excerpt.send_texts(texts(probes)));
            let (tokenizer, options) = (&self.tokenizer, dataset.options.clone());
            let files = dataset.files.clone();
            let parts = &dataset.parts;
            let work = Preparation { files, parts, tokenizer, renderer, template: &template, options, survey, on_probes: &ask };
            let mut receiver = sink()?;
            let (counts, findings, probes) = match prepare(&work, &mut receiver)? {
                Ending::Done { counts, findings, probes } => (counts, findings, probes),
                Ending::Unsupported(why) => {
                    other = Some(needed(transformers, folder, &why)?);
                    continue;
                }
            };
            if !survey {
                findings.refusal(&counts, &dataset.options, &dataset.names)?;
            }
            let mut unchecked = false;
            if other.is_none() && !template.compared {
                match transformers.renderer(folder)? {
                    None => unchecked = true,
                    Some(theirs) => {
                        if let Some(why) = difference(&probes.concat(), theirs.as_ref())? {
                            let text = format!(
                                "the chat template renders differently in transformers ({why}), so transformers is used, which is slower"
                            );
                            logging::emit_once(Level::Warn, module_path!(), "", &text);
                            other = Some(theirs);
                            continue;
                        }
                    }
                }
            }
            if let Some(why) = self.tokenizer_differs(excerpt, &probes)? {
                let text = format!(
                    "the fast tokenizer and the tokenizers library differ ({why}), so the library is used, which is slower; please report this"
                );
                logging::emit_once(Level::Warn, module_path!(), "", &text);
                self.tokenizer.use_library()?;
                continue;
            }
            if unchecked {
                warn_unchecked(folder);
            }
            return Ok((counts, *findings, receiver, unchecked));
        }
    }

    /// The first text of the probes for which the library's tokens differ. `excerpt` was prepared for the probes that use little of
    /// the template.
    fn tokenizer_differs(&self, excerpt: Option<SubsetTokenizer>, [plain, rich]: &[Vec<RenderProbe>; 2]) -> Result<Option<String>> {
        let Some(excerpt) = excerpt else { return Ok(None) };
        let another = if rich.is_empty() { None } else { self.tokenizer.start_subset() };
        if let Some(another) = &another {
            another.send_texts(texts(rich));
        }
        let found = self.tokenizer.first_difference(&*self.tokenizer.library_tokenizer(excerpt)?, texts(plain))?;
        match another {
            Some(another) if found.is_none() => self.tokenizer.first_difference(&*self.tokenizer.library_tokenizer(another)?, texts(rich)),
            _ => Ok(found),
        }
    }
}

/// The texts of the probes' renderings.
fn texts(probes: &[RenderProbe]) -> impl Iterator<Item = &str> {
    probes.iter().flat_map(|probe| &probe.renderings).map(|rendering| rendering.text.as_str())
}

pub(crate) fn warn_unchecked(folder: &Path) {
    let text = format!(
        "the chat template in {} was not compared with transformers, because there is no Python environment; `pyrust-nn setup` makes one",
        folder.display()
    );
    logging::emit_once(Level::Warn, module_path!(), "", &text);
}

fn needed<'t>(transformers: &'t dyn Transformers, folder: &Path, why: &str) -> Result<Box<dyn Render + 't>> {
    let renderer = transformers.renderer(folder)?.ok_or_else(|| {
        error::setup(format!(
            "the chat template in {} needs transformers ({why}), but there is no Python environment with it; run `pyrust-nn setup`",
            folder.display()
        ))
    })?;
    logging::emit_once(Level::Warn, module_path!(), "", &format!("transformers renders the chat template, which is slower: {why}"));
    Ok(renderer)
}

/// The first difference between the two renderers.
fn difference(probes: &[RenderProbe], theirs: &dyn Render) -> Result<Option<String>> {
    for probe in probes {
        let same = match theirs.renderings(&probe.conversation) {
            Ok(renderings) => renderings == probe.renderings,
            Err(RenderError::Failed(error)) => return Err(error),
            Err(RenderError::Unsupported(why)) => return Ok(Some(why)),
        };
        if !same {
            return Ok(Some(format!("conversation [{}]", probe.conversation.index)));
        }
    }
    Ok(None)
}
