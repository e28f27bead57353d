package dev.saccade.benchmarks;

import dev.saccade.Device;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.IntStream;

/** What is measured: shapes of post-training and, for each operation, how it grows. */
final class Cases {
  private static final int DISTINCT_ROWS = 64;

  private Cases() {}

  /** The ceilings of a device: {@link Ceilings#of}. */
  static List<Case> ceilings(Device.Kind kind) {
    return kind == Device.Kind.CPU
        ? List.of(
            Case.of("GradNorm", "forward"), Case.of("Axpby", "copy"), Case.of("Gemm", "forward"))
        : List.of(
            Case.of("Axpby", "copy").with("rows", 16_384),
            Case.of("Gemm", "cublas").with("size", 8192).saccades());
  }

  /** Of a device, without its ceilings. */
  static List<Case> all(Device.Kind kind) {
    List<Case> cases = new ArrayList<>(kind == Device.Kind.CPU ? ofCpu() : ofGpu());
    cases.removeAll(ceilings(kind));
    return cases;
  }

  // ----------------------------------------------------------------------------------------- CPU

  /** Every benchmark at its defaults, and in bf16 where logits are read. */
  private static List<Case> ofCpu() {
    List<Case> cases = new ArrayList<>();
    cases.add(Case.of("GroupAdvantage", "forward").quick());
    cases.addAll(inBoth(Case.of("TokenLogProbs", "forward").quick()));
    cases.addAll(inBoth(Case.of("TokenLogProbs", "gradient")));
    cases.add(Case.of("SampledKl", "gradient").quick());
    cases.addAll(inBoth(Case.of("LogitDivergence", "gradient").quick()));
    cases.add(Case.of("PolicyLoss", "gradient").quick());
    cases.addAll(inBoth(Case.of("PolicyLossFromLogits", "gradient").quick()));
    cases.add(Case.of("LinearPolicyLoss", "gradient"));
    cases.add(Case.of("AttentionDivergence", "gradient").quick().of(Model.QWEN_3B));
    cases.add(Case.of("AttentionPolicy", "forward").quick().of(Model.QWEN_3B));
    cases.add(Case.of("AdamW", "step").quick());
    cases.add(Case.of("GradNorm", "forward"));
    cases.add(Case.of("GradientMoments", "update").quick());
    cases.add(Case.of("Attention", "forward").of(Model.QWEN_3B));
    cases.add(Case.of("Attention", "gradient").of(Model.QWEN_3B));
    cases.add(Case.of("Axpby", "axpby"));
    cases.add(Case.of("Axpby", "copy"));
    cases.add(Case.of("GatherRows", "forward"));
    cases.add(Case.of("Gemm", "forward"));
    cases.add(Case.of("RmsNorm", "forward"));
    cases.add(Case.of("RmsNorm", "gradient"));
    cases.addAll(inBoth(Case.of("SampleTokens", "forward")));
    cases.add(Case.of("ScatterAddRows", "add"));
    cases.add(Case.of("SwiGlu", "forward"));
    cases.add(Case.of("SwiGlu", "gradient"));
    cases.add(Case.of("Call", "overhead").saccades().quick());
    return cases;
  }

  private static List<Case> inBoth(Case f32) {
    return List.of(f32, f32.with("dtype", "BF16").saccades());
  }

  // ----------------------------------------------------------------------------------------- GPU

  private static List<Case> ofGpu() {
    List<Case> cases = new ArrayList<>();
    cases.add(groupAdvantage("GRPO", 16_384, 64).quick());
    cases.add(groupAdvantage("GRPO", 128, 8));
    cases.add(groupAdvantage("BATCH_STD", 16_384, 64));
    for (Model model : List.of(Model.QWEN_7B, Model.LLAMA_3, Model.GEMMA_3)) {
      int rows = model == Model.GEMMA_3 ? 4608 : 8192;
      boolean first = model == Model.QWEN_7B;
      List<Case> ofModel = new ArrayList<>();
      ofModel.add(logits("TokenLogProbs", "forward", rows, model));
      ofModel.add(policyLossFromLogits(rows, model));
      ofModel.add(logits("LogitDivergence", "gradient", rows, model));
      cases.addAll(first ? ofModel.stream().map(Case::quick).toList() : ofModel);
    }
    cases.add(logits("TokenLogProbs", "gradient", 8192, Model.QWEN_7B));
    for (String kind : List.of("FORWARD_KL", "REVERSE_KL")) {
      cases.add(logits("LogitDivergence", "gradient", 8192, Model.QWEN_7B).with("kind", kind));
    }
    cases.add(Case.of("SampledKl", "gradient").quick());
    cases.add(Case.of("SampledKl", "gradient").with("rows", 1 << 20));
    cases.add(Case.of("PolicyLoss", "gradient").quick());
    cases.add(Case.of("PolicyLoss", "gradient").with("sequences", 16_384).with("length", 64));
    cases.add(linearPolicyLoss(2048, Model.QWEN_3B).quick());
    cases.add(linearPolicyLoss(2048, Model.QWEN_7B));
    cases.add(policy("AttentionPolicy", "forward", Model.QWEN_7B, 1, 512, 4096).quick());
    cases.add(policy("AttentionPolicy", "forward", Model.LLAMA_3, 2, 4096, 4096));
    cases.add(divergence(Model.QWEN_7B, 1, 512, 4096).quick());
    cases.add(divergence(Model.QWEN_7B, 1, 512, 16_384));
    cases.add(divergence(Model.QWEN_7B, 4, 1024, 8192));
    cases.add(divergence(Model.LLAMA_3, 2, 4096, 4096));
    cases.add(divergence(Model.QWEN_3B, 16, 256, 2048));
    cases.add(divergence(Model.QWEN_32B, 1, 512, 8192));
    cases.add(
        Case.of("AdamW", "step")
            .with("tensors", 256)
            .with("elements", 1 << 20)
            .with("bf16Copies", true)
            .quick());
    cases.add(Case.of("GradNorm", "forward").with("tensors", 256).quick());
    cases.add(Case.of("GradientMoments", "update").quick());
    for (String pass : List.of("forward", "backward")) {
      cases.add(attention(pass, Model.QWEN_7B).quick());
      cases.add(attention(pass, Model.LLAMA_3));
      cases.add(attention(pass, Model.GEMMA_3));
    }
    for (String pass : List.of("forward", "gradient")) {
      Case norm = Case.of("RmsNorm", pass).with("rows", 16_384).of(Model.QWEN_7B);
      cases.add(norm.with("columns", Model.QWEN_7B.hiddenSize).quick());
      Case gate = Case.of("SwiGlu", pass).with("rows", 8192).of(Model.QWEN_7B);
      cases.add(gate.with("columns", Model.QWEN_7B.feedForwardSize).quick());
    }
    cases.add(rows(Case.of("GatherRows", "forward"), Model.QWEN_7B).quick());
    cases.add(rows(Case.of("ScatterAddRows", "add"), Model.QWEN_7B).quick());
    cases.add(Case.of("Axpby", "axpby").quick());
    cases.add(Case.of("Gemm", "forward").with("size", 4096));
    cases.add(logits("SampleTokens", "forward", 512, Model.QWEN_7B).quick());
    cases.add(Case.of("Call", "overhead").saccades().quick());
    return cases;
  }

  static Case groupAdvantage(String estimator, int groups, int members) {
    return Case.of("GroupAdvantage", "forward")
        .with("groups", groups)
        .with("members", members)
        .with("estimator", estimator);
  }

  static Case logits(String benchmark, String method, int rows, Model model) {
    return logits(benchmark, method, rows, model.vocabulary, "BF16").of(model);
  }

  static Case logits(String benchmark, String method, int rows, int vocabulary, String dtype) {
    return Case.of(benchmark, method)
        .with("rows", rows)
        .with("distinctRows", DISTINCT_ROWS)
        .with("vocabulary", vocabulary)
        .with("dtype", dtype);
  }

  /** Of sequences of 512 tokens, as far as there are as many. */
  static Case policyLossFromLogits(int rows, int vocabulary, String dtype) {
    return logits("PolicyLossFromLogits", "gradient", rows, vocabulary, dtype)
        .with("sequences", Math.max(1, rows / 512));
  }

  private static Case policyLossFromLogits(int rows, Model model) {
    return policyLossFromLogits(rows, model.vocabulary, "BF16").of(model);
  }

  private static Case linearPolicyLoss(int rows, Model model) {
    return Case.of("LinearPolicyLoss", "gradient")
        .with("rows", rows)
        .with("vocabulary", model.vocabulary)
        .with("hiddenSize", model.hiddenSize)
        .with("dtype", "BF16")
        .of(model);
  }

  private static Case policy(
      String benchmark, String method, Model model, int batch, int rows, int keys) {
    return Case.of(benchmark, method)
        .with("heads", model.heads)
        .with("kvHeads", model.kvHeads)
        .with("dim", model.dim)
        .with("batch", batch)
        .with("rows", rows)
        .with("keys", keys)
        .with("dtype", "BF16")
        .of(model);
  }

  static Case divergence(Model model, int batch, int rows, int keys) {
    return policy("AttentionDivergence", "gradient", model, batch, rows, keys)
        .with("lseGiven", true);
  }

  private static Case attention(String pass, Model model) {
    return Case.of("Attention", pass)
        .with("batch", 2)
        .with("heads", model.heads)
        .with("kvHeads", model.kvHeads)
        .with("dim", model.dim)
        .with("rows", 4096)
        .with("precision", "BF16")
        .of(model);
  }

  private static Case rows(Case one, Model model) {
    return one.with("tableRows", model.vocabulary)
        .with("count", 65_536)
        .with("columns", model.hiddenSize)
        .of(model);
  }

  // -------------------------------------------------------------------------------------- growth

  /** Points of series, each of one operation and one axis; the same on every device but in size. */
  static List<Case> scaling(Device.Kind kind) {
    boolean gpu = kind == Device.Kind.CUDA;
    String dtype = gpu ? "BF16" : "F32";
    int most = gpu ? 16_384 : 512;
    List<Case> cases = new ArrayList<>();
    for (int rows = most / 32; rows <= most; rows *= 2) {
      cases.add(logits("TokenLogProbs", "forward", 0, 151_936, dtype).along("rows", rows));
      cases.add(policyLossFromLogits(0, 151_936, dtype).with("sequences", 4).along("rows", rows));
      cases.add(logits("LogitDivergence", "gradient", 0, 151_936, dtype).along("rows", rows));
    }
    int rows = most / 4;
    for (int vocabulary : new int[] {8192, 32_000, 64_000, 128_256, 151_936, 262_144}) {
      cases.add(
          policyLossFromLogits(rows, 0, dtype)
              .with("sequences", 4)
              .along("vocabulary", vocabulary));
      cases.add(
          logits("LogitDivergence", "gradient", rows, 0, dtype).along("vocabulary", vocabulary));
    }
    Case attention = divergence(Model.QWEN_7B, 1, gpu ? 512 : 64, gpu ? 8192 : 1024);
    if (!gpu) {
      attention = attention.with("dtype", dtype);
    }
    for (int keys = gpu ? 1024 : 128; keys <= (gpu ? 32_768 : 2048); keys *= 2) {
      cases.add(attention.along("keys", keys));
    }
    for (int kvHeads = 1; kvHeads <= 16; kvHeads *= 2) {
      cases.add(attention.with("kvHeads", kvHeads).along("heads", 4 * kvHeads));
    }
    IntStream.iterate(gpu ? 1024 : 256, groups -> 4 * groups)
        .limit(5)
        .forEach(groups -> cases.add(groupAdvantage("GRPO", 0, 64).along("groups", groups)));
    return cases;
  }
}
