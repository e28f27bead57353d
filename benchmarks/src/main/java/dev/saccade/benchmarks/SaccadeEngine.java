package dev.saccade.benchmarks;

import dev.saccade.AdamW;
import dev.saccade.Attention;
import dev.saccade.AttentionDivergence;
import dev.saccade.AttentionPolicy;
import dev.saccade.Axpby;
import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.Device;
import dev.saccade.Divergence;
import dev.saccade.GatherRows;
import dev.saccade.Gemm;
import dev.saccade.GradNorm;
import dev.saccade.GradientMoments;
import dev.saccade.GroupAdvantage;
import dev.saccade.LinearPolicyLoss;
import dev.saccade.LogitDivergence;
import dev.saccade.PolicyLoss;
import dev.saccade.PolicyLossFromLogits;
import dev.saccade.Precision;
import dev.saccade.RmsNorm;
import dev.saccade.SampleTokens;
import dev.saccade.SampledKl;
import dev.saccade.ScatterAddRows;
import dev.saccade.Scope;
import dev.saccade.SwiGlu;
import dev.saccade.Tensor;
import dev.saccade.TokenLogProbs;
import dev.saccade.train.MatrixProducts;
import java.util.ArrayList;
import java.util.List;
import java.util.SplittableRandom;

/** This library, with every output allocated beforehand. */
final class SaccadeEngine implements Engine {
  private static final PolicyLoss.Options POLICY =
      PolicyLoss.Options.DEFAULT
          .withClipLow(PolicyBatch.CLIP)
          .withClipHigh(PolicyBatch.CLIP)
          .withKlCoef(PolicyBatch.KL_COEF);

  private final Context context;
  private final Scope scope;
  private final DType dtype;
  private final List<CublasProduct> products = new ArrayList<>();
  private final SplittableRandom places = new SplittableRandom(1);

  /**
   * @param context is the engine's from here on
   * @param dtype of logits, of hidden states, and of the queries and keys of a policy
   */
  SaccadeEngine(Context context, DType dtype) {
    this.context = context;
    this.dtype = dtype;
    scope = context.scope();
  }

  Context context() {
    return context;
  }

  @Override
  public int threads() {
    return context.threads();
  }

  @Override
  public void close() {
    products.forEach(CublasProduct::close);
    scope.close();
    context.close();
  }

  private record Run(Runnable call, List<Tensor> tensors) implements Work {
    @Override
    public Object run() {
      call.run();
      return tensors;
    }

    @Override
    public List<float[]> results() {
      call.run();
      return tensors.stream().map(Run::floats).toList();
    }

    private static float[] floats(Tensor tensor) {
      if (tensor.dtype() != DType.I32) {
        return tensor.toFloats();
      }
      int[] values = tensor.toInts();
      float[] floats = new float[values.length];
      for (int i = 0; i < floats.length; i++) {
        floats[i] = values[i];
      }
      return floats;
    }
  }

  private static Work work(Runnable call, Tensor... results) {
    return new Run(call, List.of(results));
  }

  /**
   * For a tensor anywhere in pages of 2 MB: how tensors lie to each other is worth some percent of
   * a short kernel on a GPU, and allocators repeat themselves.
   */
  private Scope somewhere() {
    if (context.device().kind() == Device.Kind.CUDA) {
      Tensor.empty(scope, DType.U8, 512L * places.nextInt(4096));
    }
    return scope;
  }

  private Tensor empty(long... shape) {
    return Tensor.empty(somewhere(), DType.F32, shape);
  }

  private Tensor tensor(float[] values, long... shape) {
    return Tensor.of(somewhere(), values, shape);
  }

  /** A tensor whose first rows are {@code values}, and the next ones again, to its end. */
  private Tensor repeated(DType type, float[] values, long... shape) {
    Tensor all = Tensor.empty(somewhere(), type, shape);
    long given = values.length / (all.size() / shape[0]);
    Tensor first = all.rows(0, given).copyFrom(values);
    for (long row = given; row < shape[0]; row += given) {
      long end = Math.min(row + given, shape[0]);
      all.rows(row, end).copyFrom(first.rows(0, end - row));
    }
    return all;
  }

  /** Offsets of {@code sequences} of one length. */
  private Tensor offsets(int sequences, int length) {
    int[] offsets = new int[sequences + 1];
    for (int s = 0; s <= sequences; s++) {
      offsets[s] = s * length;
    }
    return Tensor.of(somewhere(), offsets);
  }

  @Override
  public Work groupAdvantage(GroupAdvantageBenchmark.Inputs in) {
    return groupAdvantage(in, GroupAdvantage.Estimator.GRPO);
  }

  Work groupAdvantage(GroupAdvantageBenchmark.Inputs in, GroupAdvantage.Estimator estimator) {
    Tensor rewards = tensor(in.rewards());
    Tensor offsets = offsets(in.groups(), in.members());
    var out =
        new GroupAdvantage.Outputs(
            empty(rewards.size()), empty(in.groups()), empty(in.groups()), null);
    var options =
        GroupAdvantage.Options.DEFAULT
            .withEstimator(estimator)
            .withEps(GroupAdvantageBenchmark.EPS);
    return work(
        () -> GroupAdvantage.forward(context, rewards, offsets, null, options, out),
        out.advantage(),
        out.mean(),
        out.std());
  }

  @Override
  public Work tokenLogProbs(LogitsBenchmark.Inputs in) {
    Tensor logits = logits(in);
    Tensor targets = Tensor.of(somewhere(), in.targets());
    var out = new TokenLogProbs.Outputs(empty(in.rows()), empty(in.rows()), empty(in.rows()));
    var options = TokenLogProbs.Options.DEFAULT;
    return work(
        () -> TokenLogProbs.forward(context, logits, targets, options, out),
        out.logProb(),
        out.entropy(),
        out.lse());
  }

  @Override
  public Work tokenLogProbsGradient(LogitsBenchmark.Inputs in) {
    Tensor logits = logits(in);
    Tensor targets = Tensor.of(somewhere(), in.targets());
    Tensor dLogProb = tensor(in.weights());
    var out = new TokenLogProbs.Outputs(empty(in.rows()), null, null);
    Tensor dLogits = Tensor.empty(somewhere(), dtype, in.rows(), in.vocabulary());
    var options = TokenLogProbs.Options.DEFAULT;
    return work(
        () -> {
          TokenLogProbs.forward(context, logits, targets, options, out);
          TokenLogProbs.backward(context, logits, targets, options, dLogProb, null, dLogits);
        },
        out.logProb(),
        dLogits);
  }

  private Tensor logits(LogitsBenchmark.Inputs in) {
    return repeated(dtype, in.logits(), in.rows(), in.vocabulary());
  }

  @Override
  public Work sampledKl(SampledKlBenchmark.Inputs in) {
    Tensor logProb = tensor(in.logProb());
    Tensor refLogProb = tensor(in.refLogProb());
    var out = new SampledKl.Outputs(empty(logProb.size()), empty(logProb.size()));
    var options = SampledKl.Options.DEFAULT;
    return work(
        () -> SampledKl.forward(context, logProb, refLogProb, null, options, out),
        out.kl(),
        out.dLogProb());
  }

  @Override
  public Work logitDivergence(LogitsBenchmark.Inputs in) {
    return logitDivergence(in, Divergence.JSD);
  }

  Work logitDivergence(LogitsBenchmark.Inputs in, Divergence kind) {
    var inputs =
        LogitDivergence.Inputs.of(
                logits(in), repeated(dtype, in.refLogits(), in.rows(), in.vocabulary()))
            .withWeight(tensor(in.weights()));
    Tensor dLogits = Tensor.empty(somewhere(), dtype, in.rows(), in.vocabulary());
    var out = new LogitDivergence.Outputs(empty(in.rows()), dLogits);
    var options = LogitDivergence.Options.DEFAULT.withKind(kind);
    return work(
        () -> LogitDivergence.forward(context, inputs, options, out), out.divergence(), dLogits);
  }

  @Override
  public Work policyLoss(PolicyBatch batch, float[] logProb) {
    var inputs = policyInputs(batch, tensor(logProb));
    var out = new PolicyLoss.Outputs(empty(1), null, empty(batch.rows()), null);
    return work(() -> PolicyLoss.forward(context, inputs, POLICY, out), out.loss(), out.dLogProb());
  }

  private PolicyLoss.Inputs policyInputs(PolicyBatch batch, Tensor logProb) {
    return PolicyLoss.Inputs.of(
            logProb,
            tensor(batch.oldLogProb()),
            tensor(batch.advantage()),
            offsets(batch.sequences(), batch.length()))
        .withRefLogProb(tensor(batch.refLogProb()))
        .withMask(Tensor.of(somewhere(), batch.mask()));
  }

  @Override
  public Work policyLossFromLogits(LogitsBenchmark.Inputs in, PolicyBatch batch) {
    var inputs =
        new PolicyLossFromLogits.Inputs(
            logits(in), Tensor.of(somewhere(), in.targets()), policyInputs(batch, null));
    var values = lossAndLogProb(in.rows());
    Tensor dLogits = Tensor.empty(somewhere(), dtype, in.rows(), in.vocabulary());
    var out = new PolicyLossFromLogits.Outputs(values, dLogits);
    var options = PolicyLossFromLogits.Options.DEFAULT.withPolicy(POLICY);
    return work(
        () -> PolicyLossFromLogits.forward(context, inputs, options, out),
        values.loss(),
        values.logProb(),
        dLogits);
  }

  private PolicyLossFromLogits.Values lossAndLogProb(int rows) {
    return new PolicyLossFromLogits.Values(empty(1), null, null, empty(rows), null, null, null);
  }

  @Override
  public Work linearPolicyLoss(LinearPolicyLossBenchmark.Inputs in) {
    MatrixProducts.provideTo(context);
    var inputs =
        new LinearPolicyLoss.Inputs(
            Tensor.of(somewhere(), dtype, in.hidden(), in.rows(), in.hiddenSize()),
            Tensor.of(somewhere(), dtype, in.weight(), in.vocabulary(), in.hiddenSize()),
            Tensor.of(somewhere(), in.targets()),
            policyInputs(in.batch(), null));
    Tensor dHidden = Tensor.empty(somewhere(), dtype, in.rows(), in.hiddenSize());
    Tensor dWeight = Tensor.empty(somewhere(), dtype, in.vocabulary(), in.hiddenSize());
    var values = lossAndLogProb(in.rows());
    var out = new LinearPolicyLoss.Outputs(values, dHidden, dWeight);
    var options =
        LinearPolicyLoss.Options.DEFAULT.withPolicy(
            PolicyLossFromLogits.Options.DEFAULT.withPolicy(POLICY));
    return work(
        () -> LinearPolicyLoss.forward(context, inputs, options, out),
        values.loss(),
        values.logProb(),
        dHidden,
        dWeight);
  }

  @Override
  public Work attentionPolicy(AttentionInputs in) {
    return attentionPolicy(in, 1);
  }

  /** Of {@code sequences} that are all the same. */
  Work attentionPolicy(AttentionInputs in, int sequences) {
    var input = queriesAndKeys(in, sequences);
    AttentionInputs.Shape s = in.shape();
    long rows = (long) sequences * s.rows();
    var out =
        new AttentionPolicy.Outputs(
            empty(rows), empty(rows), empty(s.heads(), rows), empty(rows, s.keys()));
    var options = AttentionPolicy.Options.DEFAULT;
    return work(
        () -> AttentionPolicy.forward(context, input, options, out),
        out.entropy(),
        out.mass(),
        out.lse(),
        out.map());
  }

  @Override
  public Work attentionDivergence(AttentionInputs in) {
    return attentionDivergence(in, 1, false);
  }

  /**
   * Of {@code sequences} that are all the same.
   *
   * @param given whether the log-sum-exps of the attention are there already
   */
  Work attentionDivergence(AttentionInputs in, int sequences, boolean given) {
    var input = queriesAndKeys(in, sequences);
    AttentionInputs.Shape s = in.shape();
    long rows = (long) sequences * s.rows();
    var reference =
        new AttentionDivergence.Reference.Map(repeated(DType.F32, in.ref(), rows, s.keys()));
    Tensor lse = given ? empty(s.heads(), rows) : null;
    if (given) {
      AttentionPolicy.forward(
          context,
          input,
          AttentionPolicy.Options.DEFAULT,
          new AttentionPolicy.Outputs(null, null, lse, null));
    }
    var weights =
        new AttentionDivergence.Weights(repeated(DType.F32, in.weights(), rows), null, lse, null);
    Tensor dq = Tensor.empty(somewhere(), dtype, input.q().shape());
    Tensor dk = Tensor.empty(somewhere(), dtype, input.k().shape());
    var out = new AttentionDivergence.Outputs(empty(1), null, null, null, dq, dk, null);
    var options = AttentionDivergence.Options.DEFAULT;
    return work(
        () -> AttentionDivergence.forwardBackward(context, input, reference, weights, options, out),
        out.loss(),
        dq,
        dk);
  }

  private AttentionPolicy.Input queriesAndKeys(AttentionInputs in, int sequences) {
    AttentionInputs.Shape s = in.shape();
    return new AttentionPolicy.Input(
        queries(dtype, in.q(), s, sequences),
        keys(dtype, in.k(), s, sequences),
        offsets(sequences, s.rows()),
        offsets(sequences, s.keys()),
        s.keys(),
        null);
  }

  private Tensor queries(DType type, float[] values, AttentionInputs.Shape s, int sequences) {
    return repeated(type, values, (long) sequences * s.rows(), s.heads(), s.dim());
  }

  private Tensor keys(DType type, float[] values, AttentionInputs.Shape s, int sequences) {
    return repeated(type, values, (long) sequences * s.keys(), s.kvHeads(), s.dim());
  }

  @Override
  public Work attention(AttentionInputs in) {
    return attention(in, 1, Precision.F32);
  }

  /** Of {@code sequences} that are all the same. */
  Work attention(AttentionInputs in, int sequences, Precision precision) {
    var input = queriesKeysAndValues(in, sequences, precision);
    Tensor o = Tensor.empty(somewhere(), DType.F32, input.q().shape());
    return work(() -> Attention.forward(context, input, o, null), o);
  }

  @Override
  public Work attentionGradient(AttentionInputs in) {
    return attentionGradient(in, 1, Precision.F32, true);
  }

  /**
   * Of {@code sequences} that are all the same.
   *
   * @param forward whether the forward pass is run too
   */
  Work attentionGradient(AttentionInputs in, int sequences, Precision precision, boolean forward) {
    var input = queriesKeysAndValues(in, sequences, precision);
    AttentionInputs.Shape s = in.shape();
    Tensor dO = queries(DType.F32, in.dO(), s, sequences);
    Tensor o = Tensor.empty(somewhere(), DType.F32, input.q().shape());
    Tensor lse = empty(s.heads(), (long) sequences * s.rows());
    Tensor dq = Tensor.empty(somewhere(), DType.F32, input.q().shape());
    Tensor dk = Tensor.empty(somewhere(), DType.F32, input.k().shape());
    Tensor dv = Tensor.empty(somewhere(), DType.F32, input.v().shape());
    Attention.forward(context, input, o, lse);
    return work(
        () -> {
          if (forward) {
            Attention.forward(context, input, o, lse);
          }
          Attention.backward(context, input, o, lse, dO, dq, dk, dv);
        },
        o,
        dq,
        dk,
        dv);
  }

  private Attention.Input queriesKeysAndValues(
      AttentionInputs in, int sequences, Precision precision) {
    AttentionInputs.Shape s = in.shape();
    return new Attention.Input(
        queries(DType.F32, in.q(), s, sequences),
        keys(DType.F32, in.k(), s, sequences),
        keys(DType.F32, in.v(), s, sequences),
        offsets(sequences, s.rows()),
        offsets(sequences, s.keys()),
        null,
        s.keys(),
        (float) (1 / Math.sqrt(s.dim())),
        // The CPU, with which a GPU is compared, multiplies in f32 alone.
        context.device().kind() == Device.Kind.CUDA ? precision : Precision.F32);
  }

  @Override
  public Work adamW(AdamWBenchmark.Inputs in) {
    return adamW(in, false);
  }

  Work adamW(AdamWBenchmark.Inputs in, boolean bf16Copies) {
    List<AdamW.Parameter> parameters = new ArrayList<>();
    for (int i = 0; i < in.params().length; i++) {
      Tensor param = tensor(in.params()[i]);
      var parameter =
          AdamW.Parameter.of(scope, param, tensor(in.grads()[i]), AdamWBenchmark.WEIGHT_DECAY);
      parameters.add(
          bf16Copies
              ? parameter.withParamBf16(Tensor.empty(somewhere(), DType.BF16, param.size()))
              : parameter);
    }
    var options =
        AdamW.Options.of(AdamWBenchmark.LR)
            .withBeta1(AdamWBenchmark.BETA1)
            .withBeta2(AdamWBenchmark.BETA2)
            .withEps(AdamWBenchmark.EPS);
    long[] step = {0};
    return work(
        () -> AdamW.step(context, parameters, options, ++step[0]),
        parameters.stream().map(AdamW.Parameter::param).toArray(Tensor[]::new));
  }

  @Override
  public Work gradNorm(float[][] gradients) {
    List<Tensor> tensors = new ArrayList<>();
    for (float[] gradient : gradients) {
      tensors.add(tensor(gradient));
    }
    var out = new GradNorm.Outputs(empty(1), empty(1));
    var options = GradNorm.Options.DEFAULT;
    return work(() -> GradNorm.forward(context, tensors, options, out), out.norm(), out.scale());
  }

  @Override
  public Work gradientMoments(GradientMomentsBenchmark.Inputs in) {
    Tensor sample = tensor(in.sample());
    var state =
        new GradientMoments.State(
            Tensor.of(somewhere(), new long[] {in.count()}, new long[0]),
            tensor(in.mean()),
            Tensor.of(somewhere(), in.m2()));
    return work(() -> GradientMoments.update(context, state, sample), state.mean(), state.m2());
  }

  @Override
  public Work gemm(GemmBenchmark.Inputs in) {
    MatrixProducts.provideTo(context);
    Tensor a = tensor(in.a(), in.size(), in.size());
    Tensor b = tensor(in.b(), in.size(), in.size());
    Tensor c = empty(in.size(), in.size());
    return work(() -> Gemm.multiply(context, a, b, Gemm.Options.DEFAULT, c), c);
  }

  /** bf16 by cuBLAS on a GPU; {@link #gemm} elsewhere. */
  Work cublasProduct(GemmBenchmark.Inputs in) {
    if (context.device().kind() != Device.Kind.CUDA) {
      return gemm(in);
    }
    CublasProduct product = new CublasProduct(context, scope, in);
    products.add(product);
    return work(product::run, product.result());
  }

  @Override
  public Work rmsNorm(RmsNormBenchmark.Inputs in) {
    Tensor x = tensor(in.x(), in.rows(), in.columns());
    Tensor weight = tensor(in.weight());
    var out = new RmsNorm.Outputs(empty(in.rows(), in.columns()), empty(in.rows()));
    return work(() -> RmsNorm.forward(context, x, weight, RmsNormBenchmark.EPS, out), out.y());
  }

  @Override
  public Work rmsNormGradient(RmsNormBenchmark.Inputs in) {
    Tensor x = tensor(in.x(), in.rows(), in.columns());
    Tensor weight = tensor(in.weight());
    Tensor dy = tensor(in.dy(), in.rows(), in.columns());
    var out = new RmsNorm.Outputs(empty(in.rows(), in.columns()), empty(in.rows()));
    Tensor dx = empty(in.rows(), in.columns());
    Tensor dWeight = empty(in.columns());
    return work(
        () -> {
          RmsNorm.forward(context, x, weight, RmsNormBenchmark.EPS, out);
          dWeight.zero();
          RmsNorm.backward(context, x, weight, out.rstd(), dy, null, dx, dWeight);
        },
        out.y(),
        dx,
        dWeight);
  }

  @Override
  public Work swiGlu(SwiGluBenchmark.Inputs in) {
    Tensor x = tensor(in.x(), in.rows(), 2L * in.columns());
    Tensor y = empty(in.rows(), in.columns());
    return work(() -> SwiGlu.forward(context, x, y), y);
  }

  @Override
  public Work swiGluGradient(SwiGluBenchmark.Inputs in) {
    Tensor x = tensor(in.x(), in.rows(), 2L * in.columns());
    Tensor dy = tensor(in.dy(), in.rows(), in.columns());
    Tensor y = empty(in.rows(), in.columns());
    Tensor dx = empty(in.rows(), 2L * in.columns());
    return work(
        () -> {
          SwiGlu.forward(context, x, y);
          SwiGlu.backward(context, x, dy, dx);
        },
        y,
        dx);
  }

  @Override
  public Work sampleTokens(SampleTokensBenchmark.Inputs in) {
    return sampleTokens(in.logits(), new SampleTokens.Options(1, SampleTokensBenchmark.SEED, 0));
  }

  Work sampleTokens(LogitsBenchmark.Inputs in, SampleTokens.Options options) {
    Tensor logits = logits(in);
    Tensor tokens = Tensor.empty(somewhere(), DType.I32, in.rows());
    return work(() -> SampleTokens.sample(context, logits, null, options, tokens), tokens);
  }

  @Override
  public Work gatherRows(RowsInputs in) {
    Tensor table = tensor(in.table(), in.tableRows(), in.columns());
    Tensor index = Tensor.of(somewhere(), in.index());
    Tensor y = empty(in.index().length, in.columns());
    return work(() -> GatherRows.gather(context, table, index, null, false, y), y);
  }

  @Override
  public Work scatterAddRows(RowsInputs in) {
    Tensor table = tensor(in.table(), in.tableRows(), in.columns());
    Tensor rows = tensor(in.rows(), in.index().length, in.columns());
    Tensor index = Tensor.of(somewhere(), in.index());
    return work(() -> ScatterAddRows.add(context, rows, index, table), table);
  }

  @Override
  public Work axpby(AxpbyBenchmark.Inputs in) {
    Tensor x = tensor(in.x(), in.rows(), in.columns());
    Tensor y = tensor(in.y(), in.rows(), in.columns());
    return work(() -> Axpby.apply(context, AxpbyBenchmark.A, x, AxpbyBenchmark.B, y), y);
  }

  @Override
  public Work copy(AxpbyBenchmark.Inputs in) {
    Tensor x = tensor(in.x(), in.rows(), in.columns());
    Tensor y = tensor(in.y(), in.rows(), in.columns());
    return context.device().kind() == Device.Kind.CUDA
        ? work(() -> y.copyFrom(x), y)
        : work(() -> Axpby.apply(context, 1, x, 0, y), y);
  }
}
