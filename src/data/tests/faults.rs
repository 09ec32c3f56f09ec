//! Every fault is reported with its place, and the items after it are checked too.

use std::fmt::Write;

use proptest::prelude::*;

use crate::data::parse::columns::Layout;
use crate::data::parse::dataset_format::DatasetFormat;
use crate::data::parse::{diagnostic, fast};
use crate::data::read::problem::Problems;
use crate::data::read::reader::Reader;
use crate::data::read::size_limits::SizeLimits;
use crate::data::tests::{GOOD, TestFiles, conversations, faults, read};

/// Each text has exactly one fault, whose line begins with the given words.
fn single(cases: &[(&str, &str)]) {
    for (text, wanted) in cases {
        let got = faults(text);
        assert!(got.len() == 1 && got[0].starts_with(wanted), "{text}\n  gave {got:#?}\n  not  {wanted}");
    }
}

#[test]
fn each_fault_is_reported_with_its_place() {
    let message = |role: &str, content: &str| {
        format!(r#"[{{"messages": [{{"role": "user", "content": "x"}},{}{{"role": {role}, "content": {content}}}]}}]"#, "\n")
    };
    single(&[
        ("[{]", "line 1, column 3: invalid JSON"),
        ("[\n{\"messages\": 1,}]", "line 2, column 16: invalid JSON: trailing comma"),
        ("5", "line 1, column 1: the file contains a number, not a list of conversations"),
        (" \n\"x\"", "line 2, column 1: the file contains a string, not a list"),
        ("{\"a\": 1}", "line 1, column 1: the first conversation has the keys \"a\", which are no known format; the formats are messages"),
        ("[]", "contains no conversations; it must be a list"),
        ("", "contains no conversations"),
        (" \n ", "contains no conversations"),
        (&message("\"human\"", "\"y\""), "line 2, column 10, [0].messages[1].role: unknown role \"human\"; must be one of system"),
        (&message("\"human\"", "\"y\""), "line 2, column 10, [0].messages[1].role: unknown"),
        (&message("\"assistant\"", "\"  \""), "line 2, column 34, [0].messages[1].content: is empty"),
        (&message("\"assistant\"", "5"), "line 2, column 34, [0].messages[1].content: must be a string, not a number"),
        (&message("\"assistant\"", "null"), "line 2, column 34, [0].messages[1].content: must be a string, not null"),
        (&message("\"assistant\", \"train\": 1", "\"y\""), "line 2, column 32, [0].messages[1].train: must be true or false, not a number"),
        (&message("\"user\"", "\"y\""), "line 1, column 2, [0]: has no assistant turn"),
        ("[{\"messages\": []}]", "line 1, column 15, [0].messages: is empty"),
        ("[{\"message\": []}]", "line 1, column 2, [0]: has no \"messages\"; is \"message\" misspelled?"),
        ("[5]", "line 1, column 2: the first conversation is a number, not an object; the formats are messages"),
        ("[[1, 2]]", "line 1, column 2: the first conversation is a list, not an object; the formats are messages"),
        ("[\"x\"]", "line 1, column 2: the first conversation is a string, not an object; write plain text as {\"text\": …}"),
        (
            r#"[[{"role": "user", "content": "x"}]]"#,
            "line 1, column 2: the first conversation is a list of messages, not an object; write it as {\"messages\": [...]}",
        ),
        (
            r#"[{"conversation": []}]"#,
            r#"line 1, column 2: the first conversation has the keys "conversation", which are no known format; did you mean "conversations" by "conversation"?"#,
        ),
        (
            r#"{"quesion": "x", "anser": "y"}"#,
            r#"line 1, column 1: the first conversation has the keys "quesion", "anser", which are no known format; did you mean "question" by "quesion" and "answer" by "anser"?"#,
        ),
        (
            r#"{"data": [{"a": 1}], "n": 1}"#,
            r#"line 1, column 1: the file is one object, not a list of conversations: "data" holds a list of 1; write that list to a file, as `jq .data` does"#,
        ),
        (
            r#"{"0": {"a": 1}, "1": {"a": 2}}"#,
            "line 1, column 1: the file is one object, not a list of conversations: its values are objects; write them as a list, as `jq '[.[]]'` does",
        ),
        (r#"{"conversation": [{"role": "user"}]}"#, r#"line 1, column 1: the first conversation has the keys "conversation", which"#),
        (
            r#"{"train set": [{"a": 1}, {}], "test": [{}]}"#,
            r#"line 1, column 1: the file is one object, not a list of conversations: "train set" holds a list of 2, "test" holds a list of 1; write each list to a file of its own, as `jq '."train set"'` does"#,
        ),
        (
            r#"[{"messages": [{"rol": "user", "content": "x"}]}]"#,
            r#"line 1, column 16, [0].messages[0]: has no "role"; is "rol" misspelled?"#,
        ),
        (
            r#"[{"messages": [{"role": "user", "contents": "x"}, {"role": "assistant", "content": "y"}]}]"#,
            r#"line 1, column 16, [0].messages[0]: has no "content"; is "contents" misspelled?"#,
        ),
        (&message("\"assistant\"", "\"\\ud800\""), "line 2, column 34, [0].messages[1].content: has an unpaired surrogate (\\ud800"),
        (&message("\"assistant\", \"\\udc00\": 1", "\"y\""), "line 2, column 1, [0].messages[1]: has a key with an unpaired surrogate"),
        (&message("\"assistant\", \"x\": 1e999999", "\"y\""), "line 2, column 28, [0].messages[1].x: cannot be read: number out of range"),
        (
            &message(&format!("\"assistant\", \"x y\": {}1{}", "[".repeat(500), "]".repeat(500)), "\"y\""),
            "line 2, column 154, [0].messages[1][\"x y\"][0]",
        ),
        (&message("\"assistant\", \"role\": \"user\"", "\"y\""), "line 2, column 31, [0].messages[1].role: duplicate key \"role\""),
        (&message("\"assistant\", \"f\": {\"a\": null, \"a\": 1}", "\"y\""), "line 2, column 45, [0].messages[1].f.a: duplicate key \"a\""),
        (&message("\"assistant\"", "[{\"type\": \"image\"}]"), "line 2, column 35, [0].messages[1].content[0]: a part of type \"image\""),
    ]);
    let deep = format!("[{{\"messages\": {}1{}}}]", "[".repeat(500), "]".repeat(500));
    assert!(faults(&deep).iter().any(|fault| fault.contains("recursion limit exceeded")), "{deep}");
}

#[test]
fn faults_outside_the_messages() {
    let with = |more: &str| format!("[{}, {more}}}]", &GOOD[..GOOD.len() - 1]);
    single(&[
        (
            &with("\"tools\": [1]"),
            "line 1, column 108, [0].tools: must be a list of tool descriptions (objects), or such a list as a JSON string",
        ),
        (&with("\"tools\": \"[{]\""), "line 1, column 108, [0].tools: must be a list of tool descriptions (objects)"),
        (&with("\"documents\": \"x\""), "line 1, column 112, [0].documents: must be a list of objects"),
        (&with("\"chat_template_kwargs\": []"), "line 1, column 123, [0].chat_template_kwargs: must be an object, not a list"),
        (&with("\"id\": 8"), "line 1, column 105, [0].id: duplicate key \"id\""),
    ]);
}

#[test]
fn faults_between_the_items_of_a_list() {
    single(&[
        (&format!("[{GOOD},\n{GOOD},\n]"), "line 3, column 1: invalid JSON: trailing comma"),
        (&format!("[{GOOD}\n{GOOD}]"), "line 2, column 1: invalid JSON: expected `,` or `]`"),
        (&format!("[{GOOD},,{GOOD}]"), "line 1, column 99: invalid JSON: expected value"),
        (&format!("[{GOOD}]\n]"), "line 2, column 1: invalid JSON: trailing characters"),
        (&format!("[{GOOD},\n{GOOD}\n"), "line 3, column 1: invalid JSON: EOF while parsing a list"),
        (&format!("[{GOOD},\n"), "line 2, column 1: invalid JSON: EOF while parsing a value"),
        (&format!("[{GOOD},\n{{\"messages\": [{{\"role\": \"us"), "line 2, column 26: invalid JSON: EOF while parsing a string"),
        (&format!("[{GOOD},\n{{\"messages\": [\"a\nb\"]}},\n{GOOD}]"), "line 2, column 17: invalid JSON: a line break within a string"),
        (&format!("[{GOOD},\n{{\"messages\": [{{]}},\n{GOOD}]"), "line 2, column 16: invalid JSON: key must be a string"),
        (&format!("[{GOOD}, \0]"), "line 1, column 100: invalid JSON: a NUL byte"),
    ]);
}

/// The texts have exactly these faults, in this order.
fn all(text: &str, wanted: &[&str]) {
    let got = faults(text);
    let alike = got.len() == wanted.len() && got.iter().zip(wanted).all(|(got, wanted)| got.starts_with(wanted));
    assert!(alike, "{text}\n  gave {got:#?}\n  not  {wanted:#?}");
}

#[test]
fn an_item_with_a_fault_does_not_hide_the_next() {
    all(
        &format!("[{{\"messages\": 1,}},\n{GOOD}\n{{\"messages\": [x]}},\n5 ,]"),
        &[
            "line 1, column 17: invalid JSON: trailing comma",
            "line 3, column 1: invalid JSON: expected `,` or `]`",
            "line 3, column 15: invalid JSON: expected value",
            "line 4, column 1, [3]: must be an object",
            "line 4, column 4: invalid JSON: trailing comma",
        ],
    );
    all(
        &format!(
            "{GOOD}\n{{\"messages\": [}}\n{{\"messages\": \"cut off\n{{\"messages\": [\n{GOOD}\n{{\"a\": 1}}}}\nxyz\n{{\"messages\": 5}},\n{GOOD}{GOOD}\n{{\"messages\": \"\n"
        ),
        &[
            "line 2, column 15: invalid JSON: expected value",
            "line 3, column 22: invalid JSON: a line break within a string",
            "line 4, column 15: invalid JSON: EOF while parsing a list",
            "line 6, column 1, [5]: has no \"messages\"",
            "line 6, column 9: invalid JSON: expected value",
            "line 7, column 1: invalid JSON: expected value",
            "line 8, column 14, [8].messages: must be a list",
            "line 8, column 16: invalid JSON: a comma between JSON lines",
            "line 10, column 15: invalid JSON: a line break within a string",
        ],
    );
}

#[test]
fn the_lines_after_a_broken_line_are_read() {
    for broken in ["{\"messages\": [", "{\"messages\": [{\"role\": \"user\"}, ", "{\"messages\": \"", "{\"a\": {", "{\"a\": 1]", "{"] {
        let mut text = format!("{GOOD}\n{broken}\n");
        for _ in 0..50 {
            writeln!(text, "{GOOD}").unwrap();
        }
        text.push_str("{\"messages\": 5}\n");
        let got = faults(&text);
        assert!(got.len() == 2 && got[0].starts_with("line ") && got[0].contains("invalid JSON"), "{broken}: {got:#?}");
        assert!(got[1].starts_with("line 53, column 14, [52].messages: must be a list"), "{broken}: {got:#?}");
    }
}

#[test]
fn a_truncated_file_is_called_truncated_and_a_truncated_line_is_not_the_file() {
    let list = format!("[{GOOD},\n{GOOD}]");
    let lines = format!("{GOOD}\n{GOOD}\n");
    // Within the second item, at any depth; and between items.
    for at in [list.len() - 1, list.len() - 2, list.len() - 12, GOOD.len() + 2, GOOD.len() + 20] {
        let got = read(&list[..at]).unwrap_err();
        assert!(got.contains("invalid JSON: EOF while parsing") && got.ends_with("; the file is truncated"), "{got}");
    }
    for at in [lines.len() - 2, lines.len() - 12, GOOD.len() + 15] {
        let got = read(&lines[..at]).unwrap_err();
        assert!(got.ends_with("; the file is truncated"), "{got}");
        let got = read(&format!("{}\n{GOOD}\n", &lines[..at])).unwrap_err();
        assert!(got.ends_with("; the line is truncated"), "{got}");
    }
}

#[test]
fn bytes_that_are_not_utf_8() {
    let in_item = [b"[".as_slice(), GOOD.as_bytes(), b",\n{\"messages\": \"\xff\"}]"].concat();
    for (bytes, wanted) in [
        (in_item.as_slice(), "line 2, column 15, [1]: not UTF-8; save the file as UTF-8"),
        (b"\xff\xfe[\0", "line 1, column 1: the file is UTF-16; give JSON in UTF-8"),
        (b"PK\x03\x04abc", "the file is a zip archive"),
        (b"\x80", "line 1, column 1: not UTF-8"),
        (b"{\"messages\": \"a\0b\"}", "line 1, column 16: invalid JSON: a NUL byte; the file is damaged"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03abc", "0.json has damaged or truncated compressed data"),
        (b"\x28\xb5\x2f\xfd", "0.json has damaged or truncated compressed data"),
    ] {
        let got = conversations(bytes, 1 << 18).unwrap_err();
        assert!(got.contains(wanted), "{bytes:?}\n  gave {got}\n  not  {wanted}");
    }
}

#[test]
fn all_faults_are_counted_and_the_first_shown_in_order() {
    let bad = vec!["{\"messages\": 1}"; 30].join(",\n");
    let got = read(&format!("[{GOOD},\n{bad}]")).unwrap_err();
    assert!(got.contains("30 problems") && got.contains("line 21") && !got.contains("line 22") && got.contains("10 more"), "{got}");
    let many = format!("[{{\"messages\": [{}]}}]", vec!["5"; 5000].join(",\n"));
    let got = read(&many).unwrap_err();
    assert!(got.contains("5000 problems") && got.contains("line 20, column 1, [0].messages[19]") && got.contains("4980 more"), "{got}");
    // In any order in which threads report them.
    let text = (0..3000).map(|i| format!("{{\"messages\": {i}}}\n")).collect::<String>();
    let got = read(&text).unwrap_err();
    assert!(got.contains("3000 problems") && got.contains("line 20, column 14, [19]") && !got.contains("line 21,"), "{got}");
}

#[test]
fn several_files_are_named_in_the_report() {
    let files = TestFiles::new(&[GOOD.as_bytes(), b"[]", br#"[{"messages": 1}, {"messages": 2}]"#]);
    let got = crate::data::validate_files(&files.paths, &Layout::default()).unwrap_err().to_string();
    assert!(got.starts_with("3 problems in 3 files\n"), "{got}");
    assert!(
        got.contains("1.json contains no conversations") && got.contains("2.json: line 1, column 15, [0].messages: must be a list"),
        "{got}"
    );
}

#[test]
fn an_item_beyond_the_limit_is_refused() {
    let files = TestFiles::new(&[format!("[{GOOD}, {{\"x\": \"{}\"}}, {GOOD}]", "y".repeat(5000)).as_bytes()]);
    let sizes = SizeLimits { block: 100, suspicious: 500, item: 2000 };
    let mut reader = Reader::with_sizes(files.paths.clone(), &Layout::default(), sizes).unwrap();
    let (mut found, mut problems) = (0, Problems::default());
    while let Some(batch) = reader.next_batch().unwrap() {
        assert!(reader.capacity() < 5000);
        found += batch.conversations(&mut problems).len();
    }
    assert_eq!((found, problems.count()), (1, 1));
    let told = problems.first()[0].to_string();
    assert!(told.starts_with("line 1, column 100: the conversation is larger than 2000 bytes") && told.contains("split it"), "{told}");
}

#[test]
fn a_list_whose_item_does_not_close_is_not_held_in_memory() {
    let mut text = "[{\"messages\": [{\"role\": \"user\"}, {\"role\": \"user\"]},\n".to_string();
    text.push_str(&format!("{GOOD},\n").repeat(2000));
    let files = TestFiles::new(&[text.as_bytes()]);
    let mut reader =
        Reader::with_sizes(files.paths.clone(), &Layout::default(), SizeLimits { block: 1000, suspicious: 3000, item: 1 << 30 }).unwrap();
    let mut problems = Problems::default();
    while let Some(batch) = reader.next_batch().unwrap() {
        batch.conversations(&mut problems);
    }
    assert!(problems.first()[0].to_string().starts_with("line 1, column 49: invalid JSON: expected `,` or `}`"), "{problems:?}");
    assert!(reader.bytes_done() < 10_000, "{}", reader.bytes_done());
}

#[test]
fn the_fast_parser_leaves_large_numbers_to_the_slow_one() {
    let item = |number: &str| {
        format!(r#"{{"messages": [{{"role": "user", "content": "a", "n": {number}}}, {{"role": "assistant", "content": "b"}}]}}"#)
    };
    let slow = |item: &str| {
        diagnostic::parse_conversation(item.as_bytes(), "[0]", DatasetFormat::Messages, &Layout::default(), true, &mut |_, _, _| {})
    };
    for (number, is_fast) in [("18446744073709551615", true), ("1e-20", true), ("1e20", false)] {
        let item = item(number);
        assert_eq!(fast::parse_conversation(&item).is_some(), is_fast, "{number}");
        assert!(slow(&item).is_some(), "{number}");
    }
}

proptest! {
    // No change makes a number of more than 64 bits.
    #[test]
    fn the_fast_parser_accepts_the_items_without_a_fault_or_a_conversion_and_gives_the_same_conversations(at in 0_usize..400, with in "[\\[\\]{}\",:a0\\\\ ]{0,3}", cut in 0_usize..4) {
        let mut item = r#"{"messages": [{"role": "system", "content": [{"type": "text", "text": "a\n"}]}, {"role": "user", "content": "é", "n": null, "m": [1.5, {"a": 1e-2}]},
            {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {"x": -1}}}], "train": null}], "tools": [{"a": 1}], "weight": null, "x": 184467440737095, "documents": [], "chat_template_kwargs": {"a": true}, "id": [7]}"#
            .to_string();
        let at = (0..=at.min(item.len())).rev().find(|at| item.is_char_boundary(*at)).unwrap();
        let end = (at..=item.len()).find(|end| *end >= at + cut && item.is_char_boundary(*end)).unwrap_or(item.len());
        item.replace_range(at..end, &with);
        let item = item.trim();
        let mut found = 0;
        let slow = diagnostic::parse_conversation(item.as_bytes(), "[0]", DatasetFormat::Messages, &Layout::default(), true, &mut |_, _, _| found += 1);
        prop_assert_eq!(slow.is_none(), found > 0);
        match fast::parse_conversation(item) {
            // What must be converted is left to the slow parser, which notes it.
            None => prop_assert!(slow.is_none_or(|slow| slow.remarks.made().next().is_some()), "{}", item),
            fast => prop_assert_eq!(fast, slow, "{}", item),
        }
    }
}
