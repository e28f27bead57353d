package dev.saccade.cli.cases;

import dev.saccade.AttentionPolicy;
import dev.saccade.AttentionPolicy.Reduction;
import dev.saccade.AttentionPolicy.Support;
import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import java.util.HashMap;
import java.util.Map;

/** {@code attention_policy}. */
final class AttentionPolicyCase implements OpCase {
  @Override
  public Map<String, Tensor> run(Context context, Scope scope, CaseInputs inputs) {
    return run(scope, input(inputs), options(inputs), mapWidth(inputs));
  }

  /** Entropy, mass, lse and, for MEAN, the map {@code p}. */
  static Map<String, Tensor> run(
      Scope scope, AttentionPolicy.Input input, AttentionPolicy.Options options, long mapWidth) {
    long rows = input.q().shape(0);
    Map<String, Tensor> results = new HashMap<>();
    results.put("entropy", Tensor.empty(scope, DType.F32, rows));
    results.put("mass", Tensor.empty(scope, DType.F32, rows));
    results.put("lse", Tensor.empty(scope, DType.F32, input.q().shape(1), rows));
    if (options.reduction() == Reduction.MEAN) {
      results.put("p", Tensor.empty(scope, DType.F32, rows, mapWidth));
    }
    AttentionPolicy.forward(
        scope.context(),
        input,
        options,
        new AttentionPolicy.Outputs(
            results.get("entropy"), results.get("mass"), results.get("lse"), results.get("p")));
    return results;
  }

  static AttentionPolicy.Input input(CaseInputs inputs) {
    Tensor q = inputs.tensor("q");
    if (q.rank() != 3) {
      throw new CaseException("tensor in.q: expected [Tq, Hq, D], got " + q.rank() + " dimensions");
    }
    return new AttentionPolicy.Input(
        q,
        inputs.tensor("k"),
        inputs.tensor("offsets_q"),
        inputs.tensor("offsets_k"),
        longestKeys(inputs),
        inputs.optional("support_ranges"));
  }

  static AttentionPolicy.Options options(CaseInputs inputs) {
    var defaults = AttentionPolicy.Options.DEFAULT;
    return new AttentionPolicy.Options(
        inputs.number("scale", defaults.scale()),
        inputs.choice("support", Support.class, defaults.support()),
        inputs.choice("reduction", Reduction.class, defaults.reduction()),
        inputs.integer("head_begin", defaults.headBegin()),
        inputs.integer("head_end", defaults.headEnd()),
        inputs.flag("compact", defaults.compact()));
  }

  /** Columns of the map: the longest key sequence, or in the compact form the widest range. */
  static long mapWidth(CaseInputs inputs) {
    if (!inputs.flag("compact", false) || !inputs.has("support_ranges")) {
      return longestKeys(inputs);
    }
    long[] ranges = inputs.integers("support_ranges");
    long widest = 0;
    for (int i = 0; i + 1 < ranges.length; i += 2) {
      widest = Math.max(widest, ranges[i + 1] - ranges[i]);
    }
    return widest;
  }

  private static long longestKeys(CaseInputs inputs) {
    long[] offsets = inputs.integers("offsets_k");
    long longest = 0;
    for (int s = 0; s + 1 < offsets.length; s++) {
      longest = Math.max(longest, offsets[s + 1] - offsets[s]);
    }
    return longest;
  }
}
