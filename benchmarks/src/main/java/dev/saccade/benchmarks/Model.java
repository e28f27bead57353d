package dev.saccade.benchmarks;

/**
 * Models whose shapes are measured: one layer's attention, its feed-forward part, the vocabulary.
 */
enum Model {
  QWEN_3B("Qwen2.5-VL-3B", 16, 2, 128, 2048, 11_008, 151_936),
  QWEN_7B("Qwen2.5-VL-7B", 28, 4, 128, 3584, 18_944, 151_936),
  QWEN_32B("Qwen2.5-VL-32B", 40, 8, 128, 5120, 27_648, 152_064),
  LLAMA_3("Llama-3-8B", 32, 8, 128, 4096, 14_336, 128_256),
  GEMMA_3("Gemma-3-4B", 8, 4, 256, 2560, 10_240, 262_144);

  final String title;
  final int heads;
  final int kvHeads;
  final int dim;
  final int hiddenSize;
  final int feedForwardSize;
  final int vocabulary;

  Model(
      String title,
      int heads,
      int kvHeads,
      int dim,
      int hiddenSize,
      int feedForwardSize,
      int vocabulary) {
    this.title = title;
    this.heads = heads;
    this.kvHeads = kvHeads;
    this.dim = dim;
    this.hiddenSize = hiddenSize;
    this.feedForwardSize = feedForwardSize;
    this.vocabulary = vocabulary;
  }
}
