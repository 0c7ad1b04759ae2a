//! Runs every input of the corpora through its target: a regression test that needs neither a fuzzer nor a sanitizer.

use std::path::Path;

#[test]
fn every_input_of_the_corpora_passes() {
    for (name, target) in mcd_fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut count = 0;
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            target(&std::fs::read(&path).unwrap());
            count += 1;
        }
        assert!(count > 0, "{} is empty", folder.display());
    }
}
