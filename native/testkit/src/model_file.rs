//! Model files with nothing in them but what a session's opening looks for.

/// A field of a protobuf message: its number, its length, its content.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
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
