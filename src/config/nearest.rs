//! "Did you mean …?": the known name that a mistyped one most resembles.

/// The candidate with the fewest differing letters, if they are few enough to be a slip. A candidate whose last
/// part is written right wins over one that is merely similar: `idle_timeout` alone means `quic.idle_timeout`.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let allowed = 1 + name.chars().count() / 6;
    candidates
        .map(|candidate| {
            let edits = distance(name, candidate);
            let is_moved = last(name) == last(candidate);
            (edits > allowed, !is_moved, edits, candidate)
        })
        .filter(|(is_far, is_other, ..)| !is_far || !is_other)
        .min()
        .map(|(.., candidate)| candidate)
}

/// Letters to insert, remove, replace or swap with their neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // Three rows suffice: two above the current one, because a swap looks back by two.
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1; b.len() + 1];
        for (j, y) in b.iter().enumerate() {
            // Every index is at most `b.len()`, and rows have `b.len() + 1` cells; `before` is filled when i > 0.
            row[j + 1] = (above[j] + usize::from(x != y))
                .min(above[j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                row[j + 1] = row[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_strangers_are_not() {
        let keys = [
            "quic.listen",
            "quic.idle_timeout",
            "http.listen",
            "http.body_max",
            "data_dir",
        ];
        let check = |name: &str, expect: Option<&str>| {
            assert_eq!(nearest(name, keys.iter().copied()), expect, "{name}");
        };
        check("quic.lisetn", Some("quic.listen"));
        check("quic.idle-timeout", Some("quic.idle_timeout"));
        check("quic_listen", Some("quic.listen"));
        check("idle_timeout", Some("quic.idle_timeout"));
        check("htp.listen", Some("http.listen"));
        check("datadir", Some("data_dir"));
        check("kitchen.sink", None);
    }

    #[test]
    fn distances() {
        let check = |a: &str, b: &str, expect: usize| {
            assert_eq!(distance(a, b), expect, "{a} {b}");
            assert_eq!(distance(b, a), expect, "{b} {a}");
        };
        check("", "", 0);
        check("", "abc", 3);
        check("abc", "abc", 0);
        check("abc", "acb", 1);
        check("kitten", "sitting", 3);
    }
}
