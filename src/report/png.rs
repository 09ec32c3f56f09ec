//! A picture as PNG. Its texts are drawn as outlines of one font that the program holds (Ubuntu Light, from the crate `epaint_default_fonts`), so a
//! picture is the same everywhere, and no font must be installed. resvg draws the rest.

use std::sync::LazyLock;

use anyhow::{Context, Result};
use regex::{Captures, Regex};
use resvg::tiny_skia::{Color, Pixmap, Transform};
use resvg::usvg::{Options, Tree};
use ttf_parser::{Face, OutlineBuilder};

use crate::base::error;

/// Pixels of a unit of the drawing: a curve is 2,560 pixels wide, 300 to the inch at 22 cm.
const SCALE: f32 = 4.0;
/// Of texts, in units of the drawing.
const FONT_SIZE: f64 = 12.0;

/// A text of our drawings. `x` is its beginning, of class `y` its end, of class `x` its middle.
static TEXT: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#"<text(?: class="(?<class>\w)")? x="(?<x>[-\d.]+)" y="(?<y>[-\d.]+)">(?<text>[^<]*)</text>"#).ok());

/// The picture `svg`, which the error calls `name`.
///
/// # Errors
/// Kind `input` if the font lacks a character.
pub(crate) fn png(svg: &str, name: &str) -> Result<Vec<u8>> {
    let svg = outlined(svg, name)?;
    let tree = Tree::from_str(&svg, &Options::default()).with_context(|| format!("the picture {name} cannot be drawn"))?;
    let [width, height] = [tree.size().width(), tree.size().height()].map(|side| (side * SCALE).ceil() as u32);
    let mut pixels = Pixmap::new(width, height).with_context(|| format!("the picture {name} is too large: {width} x {height} pixels"))?;
    pixels.fill(Color::WHITE);
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    pixels.encode_png().with_context(|| format!("the picture {name} cannot be drawn"))
}

/// The drawing with outlines instead of texts.
fn outlined(svg: &str, name: &str) -> Result<String> {
    let texts = TEXT.as_ref().context("the pattern of texts is wrong")?;
    let face = Face::parse(epaint_default_fonts::UBUNTU_LIGHT, 0).context("the program's font is damaged")?;
    let mut drawn = String::with_capacity(svg.len() * 2);
    let mut done = 0;
    for found in texts.captures_iter(svg) {
        let Some(whole) = found.get(0) else { continue };
        drawn.push_str(&svg[done..whole.start()]);
        drawn.push_str(&outline(&face, &found, name)?);
        done = whole.end();
    }
    drawn.push_str(&svg[done..]);
    Ok(drawn)
}

/// A text as a path.
fn outline(face: &Face, found: &Captures, name: &str) -> Result<String> {
    let text = unescaped(&found["text"]);
    let unit = FONT_SIZE / f64::from(face.units_per_em());
    let mut glyphs = Vec::new();
    for symbol in text.chars() {
        let lacks = || {
            error::input(format!(
                "the picture {name} cannot be written as PNG: the program's font has no character {symbol:?}, which is in {text:?}; --svg writes it, \
                 for a program with other fonts"
            ))
        };
        glyphs.push(face.glyph_index(symbol).ok_or_else(lacks)?);
    }
    let advance = |glyph: &ttf_parser::GlyphId| f64::from(face.glyph_hor_advance(*glyph).unwrap_or_default()) * unit;
    let width: f64 = glyphs.iter().map(advance).sum();
    let number = |part: &str| found[part].parse::<f64>().unwrap_or_default();
    let before = match found.name("class").map(|class| class.as_str()) {
        Some("y") => width,
        Some("x") => width / 2.0,
        _ => 0.0,
    };
    let mut path = GlyphPath { unit, x: number("x") - before, y: number("y"), d: String::new() };
    for glyph in &glyphs {
        face.outline_glyph(*glyph, &mut path);
        path.x += advance(glyph);
    }
    Ok(format!("<path fill=\"#333\" d=\"{}\"/>", path.d))
}

/// A glyph's outline, in the coordinates of the drawing.
struct GlyphPath {
    unit: f64,
    x: f64,
    y: f64,
    d: String,
}

impl GlyphPath {
    fn add(&mut self, command: char, points: &[(f32, f32)]) {
        self.d.push(command);
        for (x, y) in points {
            // The axis of a font points up.
            self.d.push_str(&format!("{:.3} {:.3} ", self.x + f64::from(*x) * self.unit, self.y - f64::from(*y) * self.unit));
        }
    }
}

impl OutlineBuilder for GlyphPath {
    fn move_to(&mut self, x: f32, y: f32) {
        self.add('M', &[(x, y)]);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        self.add('L', &[(x, y)]);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        self.add('Q', &[(x1, y1), (x, y)]);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        self.add('C', &[(x1, y1), (x2, y2), (x, y)]);
    }

    fn close(&mut self) {
        self.d.push('Z');
    }
}

/// What `html::escape` made safe.
fn unescaped(text: &str) -> String {
    [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")]
        .iter()
        .fold(text.to_string(), |text, (safe, symbol)| text.replace(safe, symbol))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::html::escape;

    fn drawing(text: &str) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 100 20\"><text class=\"y\" x=\"95\" y=\"15\">{}</text></svg>",
            escape(text)
        )
    }

    #[test]
    fn a_text_ends_where_it_should_and_is_drawn_dark_on_white() {
        let pixels = Pixmap::decode_png(&png(&drawing("1.5 <kB> & é"), "loss").unwrap()).unwrap();
        assert_eq!((pixels.width(), pixels.height()), (400, 80));
        let dark: Vec<u32> =
            (0..pixels.width()).filter(|x| (0..pixels.height()).any(|y| pixels.pixel(*x, y).unwrap().red() < 100)).collect();
        assert!(dark.last().is_some_and(|last| (372..=380).contains(last)), "{dark:?}");
        assert!(dark.first().is_some_and(|first| *first > 60), "{dark:?}");
        assert_eq!(pixels.pixel(0, 0).unwrap().red(), 255);
    }

    #[test]
    fn a_character_that_the_font_lacks_is_named() {
        let refused = png(&drawing("損失"), "tune.loss").unwrap_err().to_string();
        assert!(refused.contains("tune.loss") && refused.contains("'損'") && refused.contains("--svg"), "{refused}");
    }

    #[test]
    fn every_text_of_a_drawing_becomes_an_outline() {
        let svg = crate::report::histogram::histogram(&serde_json::json!([{"from": 1, "to": 9, "rows": 3}])).unwrap();
        assert!(svg.contains("<text") && !outlined(&svg, "x").unwrap().contains("<text"));
    }
}
