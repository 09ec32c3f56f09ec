//! Data sets, from files to rows. `prepare` directs the work of the others: `read` (files to batches of items), `parse` (an item to a
//! conversation; a batch calls it), `render` (conversations to text and turns), `tokenizer` (text to token ids), `rows` (samples, their
//! file and the cache), `engine` (which implementation does it, and whether it is right), `survey` (for `check`). `prompts` reads the
//! input of inference.

pub(crate) mod engine;
pub(crate) mod inspect;
pub(crate) mod parse;
pub(crate) mod prepare;
pub(crate) mod prompts;
pub(crate) mod read;
pub(crate) mod render;
pub(crate) mod rows;
pub(crate) mod survey;
#[cfg(test)]
mod tests;
pub(crate) mod tokenizer;

pub(crate) use engine::{Dataset, NoTransformers, Transformers, is_native};
pub(crate) use inspect::{check_template, detokenize, render_chat, render_chat_by, tokenize, tokenize_by_library};
pub(crate) use parse::columns::Layout;
pub(crate) use parse::conversation::{Conversation, Role};
pub(crate) use parse::item_keys::unused_columns;
pub(crate) use prepare::prepare_dataset;
pub(crate) use prompts::read_prompts;
pub(crate) use read::files::{digest, expand, is_pattern, missing, repeated};
pub(crate) use read::size_limits::size_limits;
pub(crate) use read::validate_files::validate_files;
pub(crate) use read::zip::{is_zip, unzip};

pub(crate) use render::rendering::{PROBE, Render, RenderError, RenderText, Rendering, place};
pub(crate) use render::turns::TurnFinder;
pub use rows::cache::Prepared;
pub use rows::counts::Counts;
pub use rows::findings::TooLong;
pub(crate) use rows::options::Options;
pub(crate) use rows::selection::DataPart;
pub(crate) use rows::text_checks::each_symbol;
pub use survey::collect::TurnTokens;
pub(crate) use survey::collect::{PreviewSelection, Survey, survey};
pub use survey::lengths::Bin;
pub use survey::preview::Preview;
pub(crate) use tokenizer::{MAX_IDS, check_tokenizer, tokenizer_head, vocabulary_and_merges};
