package dev.saccade.cli.cases;

import dev.saccade.AttentionDivergence;
import dev.saccade.AttentionDivergence.Reference;
import dev.saccade.AttentionPolicy;
import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.Divergence;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * {@code attention_divergence}, and {@code attention_policy} on the same q and k for the map {@code
 * p} and {@code lse}, which its cases hold too.
 */
final class AttentionDivergenceCase implements OpCase {
  @Override
  public Map<String, Tensor> run(Context context, Scope scope, CaseInputs inputs) {
    AttentionPolicy.Input input = AttentionPolicyCase.input(inputs);
    AttentionPolicy.Options policy = AttentionPolicyCase.options(inputs);
    var defaults = AttentionDivergence.Options.DEFAULT;
    var options =
        new AttentionDivergence.Options(
            policy,
            inputs.choice("kind", Divergence.class, defaults.kind()),
            inputs.number("beta", defaults.beta()));
    var weights =
        new AttentionDivergence.Weights(
            inputs.optional("weight"),
            inputs.optional("entropy_weight"),
            inputs.optional("lse"),
            inputs.optional("grad_output"));
    Tensor q = input.q();
    Tensor k = input.k();
    long rows = q.shape(0);
    var outputs =
        new AttentionDivergence.Outputs(
            Tensor.empty(scope, DType.F32, 1),
            Tensor.empty(scope, DType.F32, rows),
            Tensor.empty(scope, DType.F32, rows),
            Tensor.empty(scope, DType.F32, rows),
            Tensor.empty(scope, OpCase.gradientType(q), q.shape()),
            Tensor.empty(scope, OpCase.gradientType(k), k.shape()),
            Tensor.empty(scope, DType.F32, q.shape(1), rows));
    AttentionDivergence.forwardBackward(
        context, input, reference(inputs), weights, options, outputs);
    long mapWidth = AttentionPolicyCase.mapWidth(inputs);
    Map<String, Tensor> results =
        new HashMap<>(AttentionPolicyCase.run(scope, input, policy, mapWidth));
    results.put("loss", outputs.loss());
    results.put("divergence", outputs.divergence());
    results.put("entropy", outputs.entropy());
    results.put("mass", outputs.mass());
    results.put("dq", outputs.dq());
    results.put("dk", outputs.dk());
    results.put("dscore_sq", outputs.dscoreSq());
    return results;
  }

  private static Reference reference(CaseInputs inputs) {
    float scale = inputs.number("ref_scale", Float.NaN);
    int headBegin = inputs.integer("ref_head_begin", 0);
    int headEnd = inputs.integer("ref_head_end", -1);
    Tensor lse = inputs.optional("ref_lse");
    List<Reference> references = new ArrayList<>();
    if (inputs.has("ref")) {
      references.add(new Reference.Map(inputs.tensor("ref")));
    }
    if (inputs.has("ref_q") || inputs.has("ref_k")) {
      Tensor q = inputs.tensor("ref_q");
      Tensor k = inputs.tensor("ref_k");
      if (q.rank() != 3) {
        throw new CaseException(
            "tensor in.ref_q: expected [Tq, heads, D], got " + q.rank() + " dimensions");
      }
      references.add(new Reference.QueriesKeys(q, k, scale, headBegin, headEnd, lse));
    }
    if (inputs.has("ref_index")) {
      references.add(new Reference.Index(inputs.tensor("ref_index")));
    }
    if (references.size() != 1) {
      throw new CaseException(
          "expected one reference, in.ref, in.ref_q with in.ref_k, or in.ref_index; got "
              + references.size());
    }
    return references.get(0);
  }
}
