//! Model files with nothing in them but what a session's opening looks for.

/// A field of a protobuf message: its number, its length, its content.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = if number < 16 { vec![number << 3 | 2] } else { vec![number << 3 & 0x7f | 0x82, number >> 4] };
    let mut len = content.len();
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend(content);
    out
}

/// A model (`ModelProto` of onnx.proto) with a version, nine bytes that stand for its graph, and one entry of metadata.
pub fn with_metadata(key: &str, text: &str) -> Vec<u8> {
    let entry = [field(1, key.as_bytes()), field(2, text.as_bytes())].concat();
    [&[8, 10][..], &field(7, &[0xff; 9]), &field(14, &entry)].concat()
}

/// A function of a model, to be appended to it, with one node that has one tensor of these bytes.
pub fn function_with_data(name: &str, data: &[u8]) -> Vec<u8> {
    let node = field(5, &field(5, &field(9, data)));
    field(25, &[field(1, name.as_bytes()), field(7, &node)].concat())
}
