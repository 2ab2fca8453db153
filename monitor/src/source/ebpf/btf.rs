//! A reader of BTF, the kernel's description of its own types, as far as offsets and parameter lists need it.
//!
//! The format is in Documentation/bpf/btf.rst. The reader is total: whatever the bytes, it returns, and it looks at no
//! more of them than it must. It builds no index of names; a dozen look-ups, each a scan of the types, are cheaper.

use std::io;
use std::ops::Range;

/// Where the kernel shows its types.
pub(super) const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// 0xeb9f in little endian; the other byte order cannot run our programs anyway.
const MAGIC: u16 = 0xeb9f;

/// Bytes of `struct btf_type` before what depends on the kind.
const TYPE_LEN: usize = 12;

/// The kinds that are looked into, by their numbers in include/uapi/linux/btf.h.
const PTR: u8 = 2;
const STRUCT: u8 = 4;
const UNION: u8 = 5;
const TYPEDEF: u8 = 8;
const VOLATILE: u8 = 9;
const CONST: u8 = 10;
const RESTRICT: u8 = 11;
const FUNC: u8 = 12;
const FUNC_PROTO: u8 = 13;
const TYPE_TAG: u8 = 18;

/// Members that one look-up may visit. The largest struct of a kernel has some hundred; a cycle of anonymous members,
/// which only a forgery has, ends here.
const MEMBERS: usize = 10_000;

/// Typedefs and qualifiers that may be stacked.
const ALIASES: usize = 32;

/// Why bytes are not BTF.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// Something else, or the other byte order.
    #[error("it does not begin like BTF")]
    Magic,
    /// A header or type says that there are more bytes than there are.
    #[error("it is cut short at byte {0}")]
    Truncated(usize),
    /// A type of a kind that this reader cannot skip.
    #[error("type {id} is of the unknown kind {kind}")]
    Kind {
        /// Its number.
        id: usize,
        /// `BTF_KIND_*`.
        kind: u8,
    },
}

/// The types of a kernel.
#[derive(Debug)]
pub(super) struct Btf {
    bytes: Vec<u8>,
    strings: Range<usize>,
    /// Where each type begins in `bytes`. Ids start at 1: 0 is `void`.
    types: Vec<usize>,
}

/// The number of a type.
pub(super) type TypeId = u32;

/// One type, taken apart.
struct Type<'a> {
    kind: u8,
    /// Whether member offsets also hold the width of a bit field.
    bit_fields: bool,
    /// A size or another type, depending on the kind.
    value: u32,
    /// Members, parameters and the like.
    entries: &'a [u8],
}

impl<'a> Type<'a> {
    /// Takes the type at the start of `bytes` apart; `Err` with the kind if it cannot be measured.
    fn parse(bytes: &'a [u8]) -> Option<Result<Self, u8>> {
        let info = word(bytes, 4)?;
        let (kind, count) = ((info >> 24 & 0x1f) as u8, (info & 0xffff) as usize);
        let len = match kind {
            // void of forward declarations, pointers, typedefs, qualifiers, functions, floats: nothing more
            PTR | 7..=12 | 16 | TYPE_TAG => 0,
            // int, variable, declaration tag
            1 | 14 | 17 => 4,
            // array
            3 => 12,
            // struct, union, data section, 64-bit enum
            STRUCT | UNION | 15 | 19 => 12 * count,
            // enum, function prototype
            6 | FUNC_PROTO => 8 * count,
            _ => return Some(Err(kind)),
        };
        let entries = bytes.get(TYPE_LEN..TYPE_LEN + len)?;
        Some(Ok(Self { kind, bit_fields: info >> 31 == 1, value: word(bytes, 8)?, entries }))
    }
}

impl Btf {
    /// The types of the running kernel.
    pub(super) fn of_kernel() -> Result<Self, BtfError> {
        Self::parse(std::fs::read(VMLINUX)?)
    }

    /// Finds where each type begins.
    pub(super) fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        if bytes.get(..2) != Some(&MAGIC.to_le_bytes()) {
            return Err(BtfError::Magic);
        }
        let header = word(&bytes, 4).ok_or(BtfError::Truncated(4))? as usize;
        let section = |at: usize| {
            let start = header.checked_add(word(&bytes, at)? as usize)?;
            let end = start.checked_add(word(&bytes, at + 4)? as usize)?;
            (end <= bytes.len()).then_some(start..end)
        };
        let type_section = section(8).ok_or(BtfError::Truncated(8))?;
        let strings = section(16).ok_or(BtfError::Truncated(16))?;
        let mut types = Vec::new();
        let mut at = type_section.start;
        while at < type_section.end {
            let rest = &bytes[at..type_section.end];
            let found = Type::parse(rest).ok_or(BtfError::Truncated(at))?;
            let found = found.map_err(|kind| BtfError::Kind { id: types.len() + 1, kind })?;
            types.push(at);
            at += TYPE_LEN + found.entries.len();
        }
        Ok(Self { bytes, strings, types })
    }

    /// The byte offset of a field, as in `task_struct.signal`. Members of anonymous structs and unions count as the
    /// outer one's.
    pub(super) fn offset(&self, path: &str) -> Option<u32> {
        let mut names = path.split('.');
        let mut id = self.find(STRUCT, names.next()?)?;
        let mut bits = 0u32;
        for name in names {
            let (at, next) = self.member(id, name)?;
            bits = bits.checked_add(at)?;
            id = next;
        }
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// The size of a struct in bytes.
    pub(super) fn size(&self, name: &str) -> Option<u32> {
        Some(self.get(self.find(STRUCT, name)?)?.value)
    }

    /// Whether the kernel has a function of that name.
    pub(super) fn has_function(&self, name: &str) -> bool {
        self.find(FUNC, name).is_some()
    }

    /// The types of a tracepoint's arguments.
    pub(super) fn tracepoint(&self, name: &str) -> Option<Vec<TypeId>> {
        let pointer = self.get(self.find(TYPEDEF, &format!("btf_trace_{name}"))?)?;
        let prototype = self.get(self.get(pointer.value)?.value)?;
        if prototype.kind != FUNC_PROTO {
            return None;
        }
        // The first parameter is the tracepoint's private data.
        prototype.entries.chunks_exact(8).skip(1).map(|parameter| word(parameter, 4)).collect()
    }

    /// Whether a type is a pointer, by whatever name.
    pub(super) fn is_pointer(&self, id: TypeId) -> bool {
        self.strip(id).and_then(|id| self.get(id)).is_some_and(|found| found.kind == PTR)
    }

    /// Offset in bits, and type, of a member.
    fn member(&self, id: TypeId, name: &str) -> Option<(u32, TypeId)> {
        let mut visited = 0;
        let mut outers = vec![(id, 0u32)];
        while let Some((id, base)) = outers.pop() {
            let Some(outer) = self.strip(id).and_then(|id| self.get(id)) else { continue };
            if !matches!(outer.kind, STRUCT | UNION) {
                continue;
            }
            for member in outer.entries.chunks_exact(12) {
                visited += 1;
                if visited > MEMBERS {
                    return None;
                }
                let (member_name, inner, at) = (word(member, 0)?, word(member, 4)?, word(member, 8)?);
                let at = base.checked_add(if outer.bit_fields { at & 0x00ff_ffff } else { at })?;
                if self.is_named(member_name, name) {
                    return Some((at, inner));
                }
                if member_name == 0 {
                    outers.push((inner, at));
                }
            }
        }
        None
    }

    fn get(&self, id: TypeId) -> Option<Type<'_>> {
        let at = *self.types.get((id as usize).checked_sub(1)?)?;
        Type::parse(self.bytes.get(at..)?)?.ok()
    }

    fn find(&self, kind: u8, name: &str) -> Option<TypeId> {
        let is_it = |&at: &usize| {
            let info = word(&self.bytes, at + 4).unwrap_or(0);
            (info >> 24 & 0x1f) as u8 == kind
                && word(&self.bytes, at).is_some_and(|found| self.is_named(found, name))
        };
        TypeId::try_from(self.types.iter().position(is_it)? + 1).ok()
    }

    /// Looks through typedefs and qualifiers.
    fn strip(&self, mut id: TypeId) -> Option<TypeId> {
        for _ in 0..ALIASES {
            let found = self.get(id)?;
            match found.kind {
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => id = found.value,
                _ => return Some(id),
            }
        }
        None
    }

    fn is_named(&self, offset: u32, name: &str) -> bool {
        let text = self.bytes.get(self.strings.clone()).and_then(|strings| strings.get(offset as usize..));
        text.and_then(|text| text.strip_prefix(name.as_bytes())).is_some_and(|rest| rest.first() == Some(&0))
    }
}

/// The little-endian `u32` at a place.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    bytes.try_into().ok().map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests;
