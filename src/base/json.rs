//! JSON with numbers as they were given.

use serde::Serialize;
use serde_json::{Result, Value};

/// `value` as a JSON value. A 32-bit number keeps its short form: serde_json's own conversion makes 0.699999988079071 of 0.7.
///
/// # Errors
/// Where the value has no JSON form, such as a map with keys that are no text.
pub fn value(value: &impl Serialize) -> Result<Value> {
    serde_json::from_str(&serde_json::to_string(value)?)
}

/// Whether a count is left out of JSON.
pub fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_stay_as_they_were_given() {
        assert_eq!(super::value(&[0.7f32, 0.1, 1e-8]).unwrap().to_string(), "[0.7,0.1,1e-8]");
        assert_eq!(super::value(&[0.1f64 + 0.2, 1.0 / 3.0]).unwrap(), serde_json::json!([0.1f64 + 0.2, 1.0 / 3.0]));
    }
}
