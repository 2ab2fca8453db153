//! Bytes in JSON.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes that are words nearly always: as a string, or else as a list of numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::keeper) struct Words(pub(in crate::keeper) Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form {
    Text(String),
    Bytes(Vec<u8>),
}

impl Serialize for Words {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match Form::deserialize(deserializer)? {
            Form::Text(text) => text.into_bytes(),
            Form::Bytes(bytes) => bytes,
        }))
    }
}

/// Bytes that are nobody's words, as hexadecimal digits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::keeper) struct Hex(pub(in crate::keeper) Vec<u8>);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: [u8; 16] = *b"0123456789abcdef";
        let mut text = String::with_capacity(2 * self.0.len());
        for digit in self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]) {
            text.push(char::from(DIGITS[usize::from(digit)]));
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let pair = |pair: &[u8]| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        };
        let bytes = text.as_bytes().chunks(2).map(pair).collect::<Option<_>>();
        bytes.map(Self).ok_or_else(|| D::Error::custom("these are not pairs of hexadecimal digits"))
    }
}
