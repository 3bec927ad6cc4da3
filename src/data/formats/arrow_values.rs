//! The values of an Arrow column as those of JSON.

use super::columnar::{date, float, moment, short_float};
use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrowPrimitiveType};
use arrow_schema::{DataType, TimeUnit};
use serde_json::Value;

/// The value of a column in a row.
pub(super) type Cell<'a> = Box<dyn Fn(usize) -> Value + 'a>;

/// Whether a column of this type is read.
pub(super) fn reads(kind: &DataType) -> bool {
    use DataType::*;
    match kind {
        List(field) | LargeList(field) => scalar(field.data_type()),
        other => scalar(other),
    }
}

fn scalar(kind: &DataType) -> bool {
    use DataType::*;
    match kind {
        Boolean | Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 | Float32 | Float64 | Utf8 | LargeUtf8 | Utf8View
        | Date32 | Date64 | Timestamp(..) => true,
        Dictionary(_, values) => !matches!(**values, Dictionary(..)) && scalar(values),
        _ => false,
    }
}

/// The values of `array`; nothing for a type that [`reads`] refuses.
pub(super) fn cells(array: &dyn Array) -> Option<Cell<'_>> {
    use DataType::*;
    fn number<'a, T: ArrowPrimitiveType>(array: &'a dyn Array, value: impl Fn(T::Native) -> Value + 'a) -> Cell<'a> {
        let array = array.as_primitive::<T>();
        Box::new(move |at| if array.is_null(at) { Value::Null } else { value(array.value(at)) })
    }
    fn text<'a>(array: &'a dyn Array, value: impl Fn(usize) -> &'a str + 'a) -> Cell<'a> {
        Box::new(move |at| if array.is_null(at) { Value::Null } else { value(at).into() })
    }
    if !reads(array.data_type()) {
        return None;
    }
    Some(match array.data_type() {
        Boolean => {
            let all = array.as_boolean();
            Box::new(move |at| if all.is_null(at) { Value::Null } else { all.value(at).into() })
        }
        Int8 => number::<Int8Type>(array, Value::from),
        Int16 => number::<Int16Type>(array, Value::from),
        Int32 => number::<Int32Type>(array, Value::from),
        Int64 => number::<Int64Type>(array, Value::from),
        UInt8 => number::<UInt8Type>(array, Value::from),
        UInt16 => number::<UInt16Type>(array, Value::from),
        UInt32 => number::<UInt32Type>(array, Value::from),
        UInt64 => number::<UInt64Type>(array, Value::from),
        Float32 => number::<Float32Type>(array, short_float),
        Float64 => number::<Float64Type>(array, float),
        Date32 => number::<Date32Type>(array, |days| date(i64::from(days))),
        Date64 => number::<Date64Type>(array, |at| date(at.div_euclid(86_400_000))),
        Timestamp(TimeUnit::Second, _) => number::<TimestampSecondType>(array, |at| moment(jiff::Timestamp::from_second(at))),
        Timestamp(TimeUnit::Millisecond, _) => {
            number::<TimestampMillisecondType>(array, |at| moment(jiff::Timestamp::from_millisecond(at)))
        }
        Timestamp(TimeUnit::Microsecond, _) => {
            number::<TimestampMicrosecondType>(array, |at| moment(jiff::Timestamp::from_microsecond(at)))
        }
        Timestamp(TimeUnit::Nanosecond, _) => {
            number::<TimestampNanosecondType>(array, |at| moment(jiff::Timestamp::from_nanosecond(at.into())))
        }
        Utf8 => {
            let all = array.as_string::<i32>();
            text(array, |at| all.value(at))
        }
        LargeUtf8 => {
            let all = array.as_string::<i64>();
            text(array, |at| all.value(at))
        }
        Utf8View => {
            let all = array.as_string_view();
            text(array, |at| all.value(at))
        }
        List(_) => {
            let all = array.as_list::<i32>();
            Box::new(move |at| if all.is_null(at) { Value::Null } else { list(&*all.value(at)) })
        }
        LargeList(_) => {
            let all = array.as_list::<i64>();
            Box::new(move |at| if all.is_null(at) { Value::Null } else { list(&*all.value(at)) })
        }
        Dictionary(..) => {
            let all = array.as_any_dictionary();
            if all.values().is_empty() {
                // Then no row has a value.
                return Some(Box::new(|_| Value::Null));
            }
            let (keys, values) = (all.normalized_keys(), cells(&**all.values())?);
            Box::new(move |at| if array.is_null(at) { Value::Null } else { values(keys[at]) })
        }
        _ => return None,
    })
}

fn list(entries: &dyn Array) -> Value {
    cells(entries).map_or(Value::Null, |cell| (0..entries.len()).map(cell).collect())
}
