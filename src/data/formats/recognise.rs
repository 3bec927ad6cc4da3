//! What an interactions file is, by its first lines.

use super::mind::moment;
use crate::data::rows::fields;

/// A format, and the columns that it was recognised by.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Recognised {
    pub format: &'static str,
    /// Why, in words.
    pub because: String,
    /// Of a table with a header: separator and names of the columns of users, items and times.
    pub table: Option<Table>,
}

/// A table with a header.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Table {
    pub separator: String,
    pub user: Option<String>,
    pub item: Option<String>,
    pub time: Option<String>,
}

const USERS: &[&str] = &["user_id", "user", "userid", "uid", "reviewerid", "reviewer_id", "customer_id", "session_id", "sessionid"];
const ITEMS: &[&str] =
    &["item_id", "item", "itemid", "iid", "movieid", "movie_id", "asin", "parent_asin", "product_id", "productid", "sku", "news_id"];
const TIMES: &[&str] = &["timestamp", "time", "ts", "datetime", "date", "unixreviewtime", "unix_time", "created_at"];

/// The name of the first column that is called like one of `usual`, whatever its case.
fn column(names: &[&str], usual: &[&str]) -> Option<String> {
    let same = |name: &&&str, wanted: &str| name.trim().trim_matches('"').eq_ignore_ascii_case(wanted);
    usual.iter().find_map(|wanted| names.iter().find(|name| same(name, wanted)).map(|name| name.trim().trim_matches('"').to_owned()))
}

/// The columns of a JSON object's keys or of a header.
fn table(names: &[&str], separator: &str) -> Table {
    Table { separator: separator.to_owned(), user: column(names, USERS), item: column(names, ITEMS), time: column(names, TIMES) }
}

/// What the settings say about a table, so that it need not be called as is usual.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Given<'a> {
    /// `data.separator`; empty where it is not set.
    pub separator: &'a str,
    /// Columns of users and items, where another than the default is named.
    pub user: Option<&'a str>,
    pub item: Option<&'a str>,
}

impl Given<'_> {
    /// Whether a header of these `names` has users and items, under the given names or under usual ones.
    fn fit(&self, names: &[&str], table: &Table) -> bool {
        let has = |given: Option<&str>, usual: &Option<String>| match given {
            Some(given) => names.iter().any(|name| name.trim().trim_matches('"') == given),
            None => usual.is_some(),
        };
        has(self.user, &table.user) && has(self.item, &table.item)
    }

    fn names_columns(&self) -> bool {
        self.user.is_some() || self.item.is_some()
    }
}

/// A file of columns of these `names`, known by its first bytes.
pub(super) fn columnar(format: &'static str, magic: &str, names: &[String]) -> Recognised {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Recognised { format, because: format!("the first bytes are `{magic}`"), table: Some(table(&names, ",")) }
}

/// What the first lines in `head` say, with what is `given` about them; `None` where that is no known format. The last line of `head` may be cut.
pub(super) fn recognise(head: &[u8], given: Given) -> Option<Recognised> {
    let text: String = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head).iter().map(|b| char::from(*b)).collect();
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).take(50).collect();
    if lines.len() > 1 && lines.len() < 50 && !text.ends_with('\n') {
        lines.pop();
    }
    let first = *lines.first()?;
    let found = |format, because: &str| Some(Recognised { format, because: because.to_owned(), table: None });
    if first.trim_start().starts_with('{') {
        let has = |key: &str| first.contains(&format!("\"{key}\"")) || first.contains(&format!("'{key}'"));
        if has("asin") && (has("reviewerID") || has("user_id")) {
            return found("amazon", "objects with `asin` and a reviewer");
        }
        let keys: Vec<&str> = first.split('"').skip(1).step_by(2).collect();
        let table = table(&keys, "");
        return Some(Recognised { format: "jsonl", because: "one JSON object a line".into(), table: Some(table) });
    }
    let tabs: Vec<&str> = first.split('\t').collect();
    let typed =
        |name: &&str| name.rsplit_once(':').is_some_and(|(_, kind)| matches!(kind.trim(), "token" | "token_seq" | "float" | "float_seq"));
    if tabs.len() > 1 && tabs.iter().all(typed) {
        return match tabs.iter().any(|name| name.starts_with("item_id_list:")) {
            true => found("unisrec", "a header with `item_id_list:token_seq`"),
            false => found("recbole", "a header of names with types, `user_id:token`"),
        };
    }
    if tabs.len() == 5 && moment(tabs[2]).is_some() {
        return found("mind", "impressions by tabs with times such as 11/12/2019 2:14:46 PM");
    }
    let number = |text: &str| text.trim().parse::<f64>().is_ok();
    let rated =
        |line: &&str, separator: &str| fields::<4>(line, separator).is_some_and(|[_, _, rating, time]| number(rating) && number(time));
    if lines.iter().all(|line| rated(line, "::")) {
        return found("movielens", "user, item, rating and time with `::` between them");
    }
    if lines.iter().all(|line| rated(line, "\t")) {
        return found("movielens", "user, item, rating and time with tabs between them, no header");
    }
    if first.starts_with("userId,movieId") {
        return found("movielens", "a header with `userId` and `movieId`");
    }
    let separators = match given.separator {
        "" => vec!["tab", ",", ";", "|"],
        one => vec![one],
    };
    // A header that has what was asked for; else, where columns were named, any header, whose names the reader holds against them.
    for wanted in [true, false] {
        for separator in separators.iter().filter(|_| wanted || given.names_columns()) {
            let character = if matches!(*separator, "tab" | "\\t") { "\t" } else { separator };
            let names: Vec<&str> = first.split(character).collect();
            let table = table(&names, separator);
            if names.len() < 2 || wanted && !given.fit(&names, &table) {
                continue;
            }
            let usual = ["user_id", "item_id", "time"].iter().all(|name| names.contains(name));
            if character == "\t" && usual && !given.names_columns() {
                return found("rechorus", "a header with `user_id`, `item_id` and `time` by tabs");
            }
            let word = if character == "\t" { "tabs".to_owned() } else { format!("`{separator}`") };
            return Some(Recognised { format: "csv", because: format!("a header with {word} between the names"), table: Some(table) });
        }
    }
    let words: Vec<usize> = lines.iter().map(|line| line.split_whitespace().count()).collect();
    let whole = |word: &str| word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if lines.iter().all(|line| line.split_whitespace().all(whole)) {
        if words.iter().all(|n| *n == 2) {
            return found("sasrec", "`user item` in each line");
        }
        if words.iter().all(|n| *n >= 2) {
            return found("s3rec", "a user and all items in each line");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{Given, recognise};

    #[test]
    fn files_are_known_by_their_first_lines() {
        for (head, format) in [
            ("user_id:token\titem_id:token\ttimestamp:float\n1\t2\t3\n", "recbole"),
            ("user_id:token\titem_id_list:token_seq\titem_id:token\n1\t2 3\t4\n", "unisrec"),
            ("1\tU1\t11/12/2019 2:14:46 PM\tN1 N2\tN3-1 N4-0\n", "mind"),
            ("1::1193::5::978300760\n1::661::3::978302109\n", "movielens"),
            ("196\t242\t3\t881250949\n", "movielens"),
            ("userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n", "movielens"),
            ("{\"reviewerID\": \"A\", \"asin\": \"B\", \"unixReviewTime\": 1}\n", "amazon"),
            ("{\"rating\": 5.0, \"asin\": \"B\", \"parent_asin\": \"C\", \"user_id\": \"A\"}\n", "amazon"),
            ("{\"user\": 1, \"item\": 2, \"ts\": 3}\n", "jsonl"),
            ("user_id\titem_id\ttime\n1\t2\t3\n", "rechorus"),
            ("user;item;date\na;b;2020-01-01\n", "csv"),
            ("user_id,item_id,timestamp\n", "csv"),
            ("1 2\n1 3\n2 3\n", "sasrec"),
            ("1 2 3 4\n2 3\n", "s3rec"),
        ] {
            assert_eq!(recognise(head.as_bytes(), Given::default()).map(|r| r.format), Some(format), "{head}");
        }
        for head in ["", "hello\n", "a,b,c\n1,2,3\n", "<html>\n", "one two, three.\n"] {
            assert_eq!(recognise(head.as_bytes(), Given::default()), None, "{head}");
        }
    }

    #[test]
    fn names_and_separators_that_are_given_need_not_be_usual() {
        let known = |head: &str, given| recognise(head.as_bytes(), given).map(|found| (found.format, found.table.unwrap().separator));
        let named = Given { user: Some("who"), item: Some("what"), ..Given::default() };
        for separator in [",", ";", "|"] {
            let head = ["who", "what", "when"].join(separator) + "\na b\n";
            assert_eq!(known(&head, named), Some(("csv", separator.to_owned())), "{head}");
        }
        assert_eq!(known("who\twhat\twhen\na\tb\t1\n", named), Some(("csv", "tab".to_owned())), "three words a line are no sequence");
        // One column by its own name, the other by a usual one.
        assert_eq!(known("who,item_id\n", Given { user: Some("who"), ..Given::default() }), Some(("csv", ",".to_owned())));
        // The reader says which of the names is not there.
        assert_eq!(known("wo,what\n", named), Some(("csv", ",".to_owned())));
        assert_eq!(known("user_id^item_id\n", Given { separator: "^", ..Given::default() }), Some(("csv", "^".to_owned())));
        assert!(recognise(b"hello\n", named).is_none());
    }
}
