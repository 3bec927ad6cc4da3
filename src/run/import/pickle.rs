//! The pickle of a `torch.save`: which tensors it names and where their values lie. Nothing of it is run: a call of a function stays a note
//! of its name and its arguments.

use crate::base::clean;
use std::collections::HashMap;

/// Place of a value among those that were made.
type Id = usize;

/// A value.
#[derive(Debug)]
enum Node<'b> {
    Int(i64),
    Text(&'b str),
    /// A class or function: its module and its name.
    Name(&'b str, &'b str),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// What lies outside of the pickle, by its description.
    Outside(Id),
    /// What a function or class would give for the arguments.
    Call(Id, Id),
    /// Nothing that a tensor is described by.
    Other,
}

/// Where the values of a tensor lie.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stored<'b> {
    /// Type of its values, as `FloatStorage`.
    pub kind: &'b str,
    /// Name of the storage.
    pub key: &'b str,
    /// Its first value in the storage.
    pub offset: usize,
    /// Axes.
    pub shape: Vec<usize>,
    /// Values from one index of an axis to the next.
    pub strides: Vec<usize>,
}

/// Names under which training programs keep the weights beside the rest of their state.
const KEYS: [&str; 3] = ["state_dict", "model_state_dict", "model"];

/// Parameters inside each other that are looked into for the tensor.
const DEEPEST: usize = 4;

/// Most axes of a tensor.
const AXES: usize = 8;

/// The tensors that the pickle in `bytes` names, in its order: those of a `state_dict`, by itself or under the key `state_dict`,
/// `model_state_dict` or `model`.
///
/// # Errors
/// Why it is no such pickle.
pub(super) fn tensors(bytes: &[u8]) -> Result<Vec<(&str, Stored<'_>)>, String> {
    let mut machine = Machine { rest: bytes, nodes: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    let root = machine.run()?;
    machine.state(root)
}

struct Machine<'b> {
    rest: &'b [u8],
    /// Every value that was made. Values name each other by place, so that none is copied and none holds another.
    nodes: Vec<Node<'b>>,
    stack: Vec<Id>,
    /// Height of the stack at each open mark.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

fn cut() -> String {
    "its pickle is cut".into()
}

impl<'b> Machine<'b> {
    fn take(&mut self, n: usize) -> Result<&'b [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or_else(cut)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A little-endian number of `n` bytes, at most 8.
    fn number(&mut self, n: usize) -> Result<u64, String> {
        Ok(self.take(n)?.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte)))
    }

    fn length(&mut self, n: usize) -> Result<usize, String> {
        usize::try_from(self.number(n)?).map_err(|_| cut())
    }

    fn text(&mut self, length: usize) -> Result<&'b str, String> {
        std::str::from_utf8(self.take(length)?).map_err(|_| "its pickle holds a text that is not UTF-8".into())
    }

    fn line(&mut self) -> Result<&'b str, String> {
        let end = self.rest.iter().position(|byte| *byte == b'\n').ok_or_else(cut)?;
        let line = self.text(end)?;
        self.take(1)?;
        Ok(line)
    }

    fn push(&mut self, node: Node<'b>) {
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
    }

    fn pop(&mut self) -> Result<Id, String> {
        let bottom = self.marks.last().copied().unwrap_or(0);
        let id = if self.stack.len() > bottom { self.stack.pop() } else { None };
        id.ok_or_else(|| "its pickle takes a value that is not there".into())
    }

    fn top(&self) -> Result<Id, String> {
        self.stack.last().copied().ok_or_else(|| "its pickle takes a value that is not there".into())
    }

    /// The values above the last mark, which is taken away.
    fn marked(&mut self) -> Result<Vec<Id>, String> {
        let at = self.marks.pop().ok_or("its pickle takes a mark that is not there")?;
        Ok(self.stack.split_off(at.min(self.stack.len())))
    }

    /// Adds keys and values in turn to the dictionary on the stack; other objects keep none.
    fn add(&mut self, pairs: &[Id]) -> Result<(), String> {
        let to = self.top()?;
        if let Node::Dict(all) = &mut self.nodes[to] {
            all.extend(pairs.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        }
        Ok(())
    }

    fn remember(&mut self, key: u64) -> Result<(), String> {
        let (key, id) = (u32::try_from(key).map_err(|_| cut())?, self.top()?);
        self.memo.insert(key, id);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<(), String> {
        let found = u32::try_from(key).ok().and_then(|key| self.memo.get(&key)).copied();
        self.stack.push(found.ok_or("its pickle names a value that is not there")?);
        Ok(())
    }

    fn tuple(&mut self, n: usize) -> Result<(), String> {
        let mut all = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        all.reverse();
        self.push(Node::Tuple(all));
        Ok(())
    }

    fn call(&mut self) -> Result<(), String> {
        let (arguments, what) = (self.pop()?, self.pop()?);
        let dictionary = matches!(self.nodes[what], Node::Name("collections", "OrderedDict" | "defaultdict"));
        self.push(if dictionary { Node::Dict(Vec::new()) } else { Node::Call(what, arguments) });
        Ok(())
    }

    /// Runs to the end; the value that is left.
    fn run(&mut self) -> Result<Id, String> {
        loop {
            let code = self.take(1)?[0];
            match code {
                b'.' => return self.pop(),
                0x80 => drop(self.take(1)?),
                // The length of a frame, which is not needed.
                0x95 => drop(self.take(8)?),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.marked()?),
                b'2' => self.stack.push(self.top()?),
                b'N' | 0x88 | 0x89 | b']' | 0x8f => self.push(Node::Other),
                b'J' => {
                    let bits = self.number(4)? as u32;
                    self.push(Node::Int(i64::from(bits.cast_signed())));
                }
                b'K' | b'M' => {
                    let number = self.number(if code == b'K' { 1 } else { 2 })?;
                    self.push(Node::Int(number.cast_signed()));
                }
                0x8a | 0x8b => self.long(code)?,
                b'G' => {
                    self.take(8)?;
                    self.push(Node::Other);
                }
                b'X' | 0x8c | 0x8d => {
                    let length = self.length(if code == b'X' {
                        4
                    } else if code == 0x8c {
                        1
                    } else {
                        8
                    })?;
                    let text = self.text(length)?;
                    self.push(Node::Text(text));
                }
                // Bytes, and texts of Python 2.
                b'B' | b'C' | 0x8e | 0x96 | b'T' | b'U' => {
                    let length = self.length(match code {
                        b'C' | b'U' => 1,
                        b'B' | b'T' => 4,
                        _ => 8,
                    })?;
                    self.take(length)?;
                    self.push(Node::Other);
                }
                b')' => self.push(Node::Tuple(Vec::new())),
                b't' => {
                    let all = self.marked()?;
                    self.push(Node::Tuple(all));
                }
                0x85..=0x87 => self.tuple(usize::from(code - 0x84))?,
                b'}' => self.push(Node::Dict(Vec::new())),
                b'd' => {
                    let pairs = self.marked()?;
                    self.push(Node::Dict(Vec::new()));
                    self.add(&pairs)?;
                }
                b'l' | 0x91 => {
                    self.marked()?;
                    self.push(Node::Other);
                }
                b'a' => drop(self.pop()?),
                b'e' | 0x90 => drop(self.marked()?),
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.add(&[key, value])?;
                }
                b'u' => {
                    let pairs = self.marked()?;
                    self.add(&pairs)?;
                }
                b'q' | b'r' => {
                    let key = self.number(if code == b'q' { 1 } else { 4 })?;
                    self.remember(key)?;
                }
                0x94 => self.remember(self.memo.len() as u64)?,
                b'h' | b'j' => {
                    let key = self.number(if code == b'h' { 1 } else { 4 })?;
                    self.recall(key)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(Node::Name(module, name));
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let name = match (&self.nodes[module], &self.nodes[name]) {
                        (Node::Text(module), Node::Text(name)) => Node::Name(module, name),
                        _ => Node::Other,
                    };
                    self.push(name);
                }
                b'Q' => {
                    let id = self.pop()?;
                    self.push(Node::Outside(id));
                }
                b'R' | 0x81 => self.call()?,
                0x92 => {
                    self.pop()?;
                    self.call()?;
                }
                // The state of an object.
                b'b' => drop(self.pop()?),
                other => return Err(format!("its pickle has the code {other:#04x}, which torch.save does not write")),
            }
        }
    }

    /// A number of any length; one of more than 64 bits is no size of a tensor.
    fn long(&mut self, code: u8) -> Result<(), String> {
        let length = self.length(if code == 0x8a { 1 } else { 4 })?;
        let bytes = self.take(length)?;
        let node = if length > 8 {
            Node::Other
        } else {
            let negative = bytes.last().is_some_and(|byte| *byte >= 0x80);
            let mut wide = [if negative { 0xff } else { 0 }; 8];
            wide[..length].copy_from_slice(bytes);
            Node::Int(i64::from_le_bytes(wide))
        };
        self.push(node);
        Ok(())
    }

    /// The tensors of the `state_dict` in `root`.
    fn state(&self, root: Id) -> Result<Vec<(&'b str, Stored<'b>)>, String> {
        let Node::Dict(pairs) = &self.nodes[root] else { return Err(self.no_state(root)) };
        let under = KEYS.iter().find_map(|key| pairs.iter().find(|(name, _)| matches!(&self.nodes[*name], Node::Text(t) if t == key)));
        let pairs = match under.map(|(_, value)| &self.nodes[*value]) {
            Some(Node::Dict(inner)) => inner,
            Some(Node::Call(..)) => return Err(self.no_state(under.map_or(root, |(_, value)| *value))),
            _ => pairs,
        };
        let mut found = Vec::new();
        for (name, value) in pairs {
            if let Node::Text(name) = &self.nodes[*name]
                && let Some(tensor) = self.tensor(*value, DEEPEST)
            {
                let unknown = || format!("tensor `{}` is described in a way that is not known", clean::id(name));
                found.push((*name, tensor.ok_or_else(unknown)?));
            }
        }
        Ok(found)
    }

    fn no_state(&self, root: Id) -> String {
        let class = match &self.nodes[root] {
            Node::Call(what, _) => match &self.nodes[*what] {
                Node::Name(module, name) => format!(" of class `{}.{}`", clean::id(module), clean::id(name)),
                _ => String::new(),
            },
            _ => String::new(),
        };
        format!("it holds an object{class} and no state_dict; write the weights with torch.save(model.state_dict(), FILE)")
    }

    /// The tensor in `id`: nothing where it is none, and `Some(None)` where its description is not understood.
    fn tensor(&self, id: Id, deepest: usize) -> Option<Option<Stored<'b>>> {
        let Node::Call(what, arguments) = self.nodes[id] else { return None };
        let (Node::Name(module, name), Node::Tuple(arguments)) = (&self.nodes[what], &self.nodes[arguments]) else { return None };
        match (*module, *name) {
            ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => Some(self.stored(arguments)),
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") if deepest > 0 => {
                Some(arguments.first().and_then(|inner| self.tensor(*inner, deepest - 1)).flatten())
            }
            ("torch._utils" | "torch._tensor", other) if other.starts_with("_rebuild") => Some(None),
            _ => None,
        }
    }

    fn stored(&self, arguments: &[Id]) -> Option<Stored<'b>> {
        let [storage, offset, shape, strides, ..] = arguments else { return None };
        let Node::Outside(storage) = self.nodes[*storage] else { return None };
        let Node::Tuple(storage) = &self.nodes[storage] else { return None };
        let (kind, key) = (storage.get(1)?, storage.get(2)?);
        let (Node::Name(_, kind), Node::Text(key)) = (&self.nodes[*kind], &self.nodes[*key]) else { return None };
        let offset = self.size(*offset)?;
        Some(Stored { kind, key, offset, shape: self.sizes(*shape)?, strides: self.sizes(*strides)? })
    }

    fn size(&self, id: Id) -> Option<usize> {
        if let Node::Int(n) = self.nodes[id] { usize::try_from(n).ok() } else { None }
    }

    fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        let Node::Tuple(all) = &self.nodes[id] else { return None };
        // A description may be named many times: what it costs each time stays small.
        all.iter().take(AXES + 1).map(|id| self.size(*id)).collect::<Option<Vec<_>>>().filter(|sizes| sizes.len() <= AXES)
    }
}
