package dev.saccade.cli.cases;

import java.util.Map;
import java.util.TreeMap;

/** The operations that {@code saccade op} knows, by the names of the specification. */
public final class OpCases {
  private static final Map<String, OpCase> ALL =
      new TreeMap<>(
          Map.ofEntries(
              Map.entry("group_advantage", new GroupAdvantageCase()),
              Map.entry("token_log_probs", new TokenLogProbsCase()),
              Map.entry("sampled_kl", new SampledKlCase()),
              Map.entry("logit_divergence", new LogitDivergenceCase()),
              Map.entry("policy_loss", new PolicyLossCase()),
              Map.entry("policy_loss_from_logits", new PolicyLossFromLogitsCase()),
              Map.entry("linear_policy_loss", new LinearPolicyLossCase()),
              Map.entry("attention_policy", new AttentionPolicyCase()),
              Map.entry("attention_divergence", new AttentionDivergenceCase()),
              Map.entry("grad_norm", new GradNormCase()),
              Map.entry("adamw", new AdamWCase()),
              Map.entry("gradient_moments", new GradientMomentsCase())));

  private OpCases() {}

  /**
   * The operation of a name.
   *
   * @throws CaseException if there is none
   */
  public static OpCase named(String name) {
    OpCase operation = ALL.get(name);
    if (operation == null) {
      throw new CaseException(
          "unknown operation \"" + name + "\"; known: " + String.join(", ", ALL.keySet()));
    }
    return operation;
  }
}
