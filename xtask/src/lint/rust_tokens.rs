//! A rough reader of Rust: enough to see which paths a file names, no more.
//!
//! It drops comments, literals, and items under `#[cfg(test)]`. It knows no macros and no grammar; what it cannot
//! place, it keeps.

/// A word or a sign, and the line it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) line: usize,
    /// A whole word, `::`, or one sign.
    pub(super) text: &'a str,
}

/// The code of a file outside its tests.
pub(super) fn outside_tests(source: &str) -> Vec<Token<'_>> {
    let tokens = tokens(source);
    let mut kept = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        if starts_with(&tokens, at, &["#", "!", "[", "cfg", "(", "test", ")"]) {
            return Vec::new();
        }
        if starts_with(&tokens, at, &["#", "[", "cfg", "(", "test", ")", "]"])
            || starts_with(&tokens, at, &["#", "[", "cfg", "(", "all", "(", "test"])
        {
            at = end_of_item(&tokens, at);
        } else {
            kept.push(tokens[at]);
            at += 1;
        }
    }
    kept
}

fn starts_with(tokens: &[Token<'_>], at: usize, texts: &[&str]) -> bool {
    texts.iter().enumerate().all(|(offset, text)| {
        tokens
            .get(at + offset)
            .is_some_and(|token| token.text == *text)
    })
}

/// Where the item ends whose first attribute stands at `at`.
fn end_of_item(tokens: &[Token<'_>], mut at: usize) -> usize {
    while starts_with(tokens, at, &["#", "["]) {
        at = end_of_group(tokens, at + 1);
    }
    // A field or a variant ends with a comma; an item has commas inside. A `use` has braces before its end.
    let keyword = tokens[at..].iter().map(|token| token.text).find(|text| {
        [
            "use", "fn", "mod", "impl", "struct", "enum", "trait", "static", "type", ":", ",", "}",
        ]
        .contains(text)
    });
    let is_field = matches!(keyword, Some(":" | "," | "}") | None);
    let is_use = keyword == Some("use");
    while let Some(token) = tokens.get(at) {
        match token.text {
            ";" => return at + 1,
            "," if is_field => return at + 1,
            "{" if is_use => at = end_of_group(tokens, at),
            "{" => return end_of_group(tokens, at),
            "(" | "[" => at = end_of_group(tokens, at),
            // The end of what the item stands in.
            "}" | ")" | "]" => return at,
            _ => at += 1,
        }
    }
    at
}

/// Where the group ends whose opening sign stands at `at`.
fn end_of_group(tokens: &[Token<'_>], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth <= 1 => return at,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
    }
    at
}

/// The words and signs of a source text without its comments and literals.
fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let (length, keep) = next(rest, first);
        let (text, after) = rest.split_at(length);
        if keep {
            let text = text.strip_prefix("r#").unwrap_or(text);
            tokens.push(Token { line, text });
        }
        line += text.matches('\n').count();
        rest = after;
    }
    tokens
}

/// The length of what `rest` begins with, and whether it is a token. The length is never 0 and ends at a character.
fn next(rest: &str, first: char) -> (usize, bool) {
    if first.is_whitespace() {
        return (first.len_utf8(), false);
    }
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), false);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), false);
    }
    if let Some(length) = string(rest) {
        return (length, false);
    }
    if first == '\'' {
        return (character_or_lifetime(rest), false);
    }
    if rest.starts_with("::") {
        return (2, true);
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let prefix = if rest.starts_with("r#") { 2 } else { 0 };
    let word = rest[prefix..]
        .find(|c| !is_word(c))
        .unwrap_or(rest.len() - prefix);
    if word == 0 {
        (first.len_utf8(), true)
    } else {
        (prefix + word, true)
    }
}

/// Rust's block comments nest.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of a string literal of any kind, if `rest` begins with one.
fn string(rest: &str) -> Option<usize> {
    let prefix = rest.find(|c| !matches!(c, 'b' | 'c' | 'r'))?;
    if prefix > 2 {
        return None;
    }
    let body = &rest[prefix..];
    if rest[..prefix].ends_with('r') {
        let hashes = body.find(|c| c != '#')?;
        let content = body[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let length = content
            .find(&end)
            .map_or(content.len(), |found| found + end.len());
        return Some(prefix + hashes + 1 + length);
    }
    let content = body.strip_prefix('"')?;
    Some(prefix + 1 + closed_by(content, '"'))
}

/// The length of `content` up to and with the unescaped `end`.
fn closed_by(content: &str, end: char) -> usize {
    let mut escaped = false;
    for (at, c) in content.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == end => return at + c.len_utf8(),
            _ => {}
        }
    }
    content.len()
}

/// The length of `'a'`, `'\n'`, or only of the `'` of a lifetime, whose name then is a word that says nothing.
fn character_or_lifetime(rest: &str) -> usize {
    let content = &rest[1..];
    let mut characters = content.chars();
    match (characters.next(), characters.next()) {
        (Some('\\'), _) => 1 + closed_by(content, '\''),
        (Some(c), Some('\'')) => 1 + c.len_utf8() + 1,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, expect: &str) {
        let kept: Vec<&str> = outside_tests(source)
            .iter()
            .map(|token| token.text)
            .collect();
        assert_eq!(kept.join(" "), expect, "{source}");
    }

    #[test]
    fn comments_and_literals_are_dropped() {
        check("a // b\nc", "a c");
        check("a /* b /* c */ d */ e", "a e");
        check("/// crate::api\nx", "x");
        check(
            r#"f("crate::api \" b", 'c', '"', '\'', b"d")"#,
            "f ( , , , , )",
        );
        check("r#\"crate \" x\"# y", "y");
        check("br\"a\\\" y", "y");
        check("&'a str", "& a str");
        check("r#type é::b", "type é :: b");
        check("\"open", "");
        check("/* open", "");
    }

    #[test]
    fn items_of_tests_are_dropped() {
        check("a #[cfg(test)] mod tests { b { c } d } e", "a e");
        check("a #[cfg(test)] mod tests; b", "a b");
        check("#[cfg(test)] use crate::{a, b}; c", "c");
        check(
            "#[cfg(test)] #[path = \"x\"] pub(crate) fn f<A, B>(a: A) -> B { c } d",
            "d",
        );
        check(
            "struct S { #[cfg(test)] a: u8, b: u8 }",
            "struct S { b : u8 }",
        );
        check("struct S { #[cfg(test)] a: u8 }", "struct S { }");
        check("#[cfg(all(test, unix))] mod tests { a } b", "b");
        check("#![cfg(test)] a", "");
        check(
            "#[cfg(feature = \"x\")] mod a;",
            "# [ cfg ( feature = ) ] mod a ;",
        );
    }

    #[test]
    fn lines_are_counted() {
        let lines: Vec<usize> = outside_tests("a\n/* \n */ b\n\"x\ny\" c")
            .iter()
            .map(|token| token.line)
            .collect();
        assert_eq!(lines, [1, 3, 5]);
    }
}
