//! Fine-tunes from a Rust program: `cargo run --release -- <data.json> <session>`.

use std::time::Instant;

use anyhow::{Context, Result};
use pyrust_nn::pyo3::prelude::*;
use pyrust_nn::{FinetuneLoraParams, InferenceParams, Summary};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let data = arguments.next().context("usage: embed <data.json> <session>")?;
    let session = arguments.next().unwrap_or_else(pyrust_nn::new_session_id);

    // One step, while another thread asks how it goes: the log answers at once, whatever Python is doing.
    let step = {
        let (session, data) = (session.clone(), data.clone());
        std::thread::spawn(move || {
            let params = FinetuneLoraParams { lora_rank: 8, num_epochs: 1.0, ..FinetuneLoraParams::new(data) };
            pyrust_nn::finetune_lora(&session, "builtin:tiny", &params)
        })
    };
    let mut slowest = 0.0_f64;
    while !step.is_finished() {
        let asked = Instant::now();
        if pyrust_nn::get_status(&session).is_ok() {
            slowest = slowest.max(asked.elapsed().as_secs_f64());
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let tuned = step.join().expect("the step's thread does not panic")?;
    println!("adapter {} after {} steps; slowest status {:.1} ms", tuned.outputs["adapter"], tuned.metrics["steps"], slowest * 1e3);

    // The same adapter, trained further on the same data.
    let further = FinetuneLoraParams {
        step: "further".into(),
        num_epochs: 1.0,
        checkpoint_lora: format!("{session}/finetune_lora").into(),
        ..FinetuneLoraParams::new(data)
    };
    let further = pyrust_nn::finetune_lora(&session, "builtin:tiny", &further)?;
    println!("further: loss {}", further.metrics["last_loss"]);

    // Its answer to a question.
    let params = InferenceParams { max_new_tokens: 8, ..InferenceParams::new("What is Pyrust-NN?") };
    let answers = pyrust_nn::inference(&session, &format!("{session}/finetune_lora"), &params)?;
    println!("answer {}", answers.result[0]["text"]);

    // A step of this program's own, in the same session.
    let mut own = Summary::new("count_threads", &session, "count_threads");
    let threads = pyrust_nn::with_python_env(&session, |py| {
        py.run(c"print('from the embedded Python')", None, None)?;
        Ok(py.import("torch")?.call_method0("get_num_threads")?.extract::<u64>()?)
    })?;
    own.metrics.insert("threads".into(), threads.into());
    println!("summary {}", pyrust_nn::write_summary(&own)?.display());
    Ok(())
}
