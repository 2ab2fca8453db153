use super::*;
use crate::source::testing::Random;

/// Writes BTF: strings and types are appended, `finish` puts the header before them.
#[derive(Default)]
struct Writer {
    types: Vec<u8>,
    strings: Vec<u8>,
}

impl Writer {
    fn new() -> Self {
        Self { types: Vec::new(), strings: vec![0] }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend(name.bytes().chain([0]));
        at
    }

    fn add(&mut self, kind: u8, name: &str, count: usize, value: u32, entries: &[u32]) {
        let name = self.name(name);
        let info = u32::from(kind) << 24 | count as u32;
        for word in [name, info, value].iter().chain(entries) {
            self.types.extend(word.to_le_bytes());
        }
    }

    fn finish(self) -> Vec<u8> {
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.extend([1, 0]);
        for word in [24, 0, types, types, strings] {
            bytes.extend(u32::to_le_bytes(word));
        }
        bytes.extend(self.types);
        bytes.extend(self.strings);
        bytes
    }
}

/// `struct task { int a; union { int b; const int c; }; }` and `btf_trace_end(void *, struct task *, int)`.
fn sample() -> Vec<u8> {
    let mut btf = Writer::new();
    let (a, b, c) = (btf.name("a"), btf.name("b"), btf.name("c"));
    btf.add(1, "int", 0, 4, &[32]); // 1
    btf.add(CONST, "", 0, 1, &[]); // 2
    btf.add(UNION, "", 2, 4, &[b, 1, 0, c, 2, 0]); // 3
    btf.add(STRUCT, "task", 2, 8, &[a, 1, 0, 0, 3, 32]); // 4
    btf.add(PTR, "", 0, 4, &[]); // 5
    btf.add(PTR, "", 0, 0, &[]); // 6: void *
    btf.add(FUNC_PROTO, "", 3, 0, &[0, 6, 0, 5, 0, 1]); // 7
    btf.add(PTR, "", 0, 7, &[]); // 8
    btf.add(TYPEDEF, "btf_trace_end", 0, 8, &[]); // 9
    btf.finish()
}

#[test]
fn offsets_look_through_anonymous_members() {
    let btf = Btf::parse(sample()).expect("it is BTF");
    assert_eq!(btf.offset("task.a"), Some(0));
    assert_eq!(btf.offset("task.b"), Some(4));
    assert_eq!(btf.offset("task.c"), Some(4));
    assert_eq!((btf.size("task"), btf.size("tas")), (Some(8), None));
    for absent in ["task.d", "task.a.b", "tas.a", "task2.a", "int", "", "."] {
        assert!(btf.offset(absent).is_none_or(|at| absent == "task" && at == 0), "{absent}");
    }
}

#[test]
fn the_private_argument_of_a_tracepoint_is_left_out() {
    let btf = Btf::parse(sample()).expect("it is BTF");
    let arguments = btf.tracepoint("end").expect("it is there");
    assert_eq!(arguments.iter().map(|&id| btf.is_pointer(id)).collect::<Vec<_>>(), [true, false]);
    assert_eq!(btf.tracepoint("begin"), None);
}

#[test]
fn a_struct_that_holds_itself_ends() {
    let mut forged = Writer::new();
    forged.add(STRUCT, "loop", 3, 8, &[0, 1, 0, 0, 1, 0, 0, 1, 0]);
    forged.add(TYPEDEF, "btf_trace_loop", 0, 2, &[]);
    let btf = Btf::parse(forged.finish()).expect("it is BTF");
    assert_eq!(btf.offset("loop.x"), None);
    assert!(!btf.is_pointer(2));
    assert_eq!(btf.tracepoint("loop"), None);
}

/// Everything the reader offers, on bytes that may be anything.
fn exercise(bytes: Vec<u8>) {
    if let Ok(btf) = Btf::parse(bytes) {
        for path in ["task.a", "task.c", "task.x"] {
            let _ = btf.offset(path);
        }
        for id in btf.tracepoint("end").unwrap_or_default() {
            let _ = btf.is_pointer(id);
        }
    }
}

#[test]
fn any_bytes_are_survived() {
    let whole = sample();
    for len in 0..whole.len() {
        exercise(whole[..len].to_vec());
    }
    let mut random = Random::new(1);
    for _ in 0..20_000 {
        let mut bytes = whole.clone();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len());
            bytes[at] = random.next() as u8;
        }
        exercise(bytes);
    }
}

#[test]
fn this_kernel_describes_itself() {
    let Ok(btf) = Btf::of_kernel() else {
        eprintln!("skipped: needs {VMLINUX}");
        return;
    };
    assert!(btf.offset("task_struct.tgid").is_some());
    assert_eq!(btf.offset("task_struct.no_such_field"), None);
    let fork = btf.tracepoint("sched_process_fork").expect("it has this tracepoint");
    assert!(fork.len() == 2 && fork.iter().all(|&id| btf.is_pointer(id)));
}
