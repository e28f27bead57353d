package dev.saccade.benchmarks.peers;

import dev.saccade.benchmarks.AdamWBenchmark;
import dev.saccade.benchmarks.AttentionInputs;
import dev.saccade.benchmarks.AxpbyBenchmark;
import dev.saccade.benchmarks.Engine;
import dev.saccade.benchmarks.GemmBenchmark;
import dev.saccade.benchmarks.GradientMomentsBenchmark;
import dev.saccade.benchmarks.GroupAdvantageBenchmark;
import dev.saccade.benchmarks.LinearPolicyLossBenchmark;
import dev.saccade.benchmarks.LogitsBenchmark;
import dev.saccade.benchmarks.PolicyBatch;
import dev.saccade.benchmarks.RmsNormBenchmark;
import dev.saccade.benchmarks.RowsInputs;
import dev.saccade.benchmarks.SampleTokensBenchmark;
import dev.saccade.benchmarks.SampledKlBenchmark;
import dev.saccade.benchmarks.SwiGluBenchmark;
import dev.saccade.benchmarks.Work;
import java.util.Arrays;
import java.util.List;
import java.util.function.Supplier;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.memory.MemoryWorkspace;
import org.nd4j.linalg.api.memory.conf.WorkspaceConfiguration;
import org.nd4j.linalg.api.memory.enums.AllocationPolicy;
import org.nd4j.linalg.api.memory.enums.LearningPolicy;
import org.nd4j.linalg.api.memory.enums.SpillPolicy;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.api.ops.DynamicCustomOp;
import org.nd4j.linalg.api.ops.impl.reduce.longer.MatchCondition;
import org.nd4j.linalg.api.ops.impl.scatter.ScatterAdd;
import org.nd4j.linalg.api.ops.impl.shape.Gather;
import org.nd4j.linalg.api.ops.impl.transforms.custom.CumSum;
import org.nd4j.linalg.api.ops.impl.updaters.AdamUpdater;
import org.nd4j.linalg.factory.Nd4j;
import org.nd4j.linalg.indexing.conditions.Conditions;
import org.nd4j.linalg.ops.transforms.Transforms;

/**
 * ND4J with nd4j-native. It has no autograd outside of graphs, so gradients are written in closed
 * form; arrays are changed in place where a result is not needed again; what a run makes lives in a
 * workspace that the next run reuses. Softmax is composed: its own operators for it took longer.
 */
public final class Nd4jEngine implements Engine {
  private static final WorkspaceConfiguration WORKSPACE =
      WorkspaceConfiguration.builder()
          .policyLearning(LearningPolicy.FIRST_LOOP)
          .policyAllocation(AllocationPolicy.OVERALLOCATE)
          .policySpill(SpillPolicy.REALLOCATE)
          .build();

  /** Makes the engine. */
  public static final class Provider implements Engine.Provider {
    @Override
    public String name() {
      return "nd4j";
    }

    @Override
    public Engine open(int threads) {
      return new Nd4jEngine(threads);
    }
  }

  private final int threads;

  private Nd4jEngine(int threads) {
    this.threads = threads;
    restoreThreads();
  }

  @Override
  public void restoreThreads() {
    Nd4j.getEnvironment().setMaxThreads(threads);
    Nd4j.getEnvironment().setMaxMasterThreads(threads);
    Nd4j.factory().blas().setMaxThreads(threads);
  }

  /** Those of its kernels, and of its BLAS: -1 where they differ. */
  @Override
  public int threads() {
    int kernels = Nd4j.getEnvironment().maxMasterThreads();
    return Nd4j.factory().blas().getMaxThreads() == kernels ? kernels : -1;
  }

  @Override
  public void close() {
    Nd4j.getWorkspaceManager().destroyAllWorkspacesForCurrentThread();
  }

  private record Run(Supplier<List<INDArray>> body) implements Work {
    @Override
    public Object run() {
      try (MemoryWorkspace workspace =
          Nd4j.getWorkspaceManager().getAndActivateWorkspace(WORKSPACE, "benchmark")) {
        return body.get();
      }
    }

    @Override
    public List<float[]> results() {
      try (MemoryWorkspace workspace =
          Nd4j.getWorkspaceManager().getAndActivateWorkspace(WORKSPACE, "benchmark")) {
        return body.get().stream().map(array -> array.dup('c').data().asFloat()).toList();
      }
    }
  }

  private static Work work(Supplier<List<INDArray>> body) {
    return new Run(body);
  }

  private static Work inPlace(Runnable body, INDArray... state) {
    return work(
        () -> {
          body.run();
          return List.of(state);
        });
  }

  private static INDArray tensor(float[] values, long... shape) {
    return Nd4j.create(values, shape.length == 0 ? new long[] {values.length} : shape);
  }

  private static INDArray square(INDArray array) {
    return array.mul(array);
  }

  /** In place; two passes of these take a fraction of clipByValue's time. */
  private static INDArray clip(INDArray array, double low, double high) {
    return Transforms.max(Transforms.min(array, high, false), low, false);
  }

  @Override
  public Work groupAdvantage(GroupAdvantageBenchmark.Inputs in) {
    INDArray rewards = tensor(in.rewards(), in.groups(), in.members());
    return work(
        () -> {
          INDArray mean = rewards.mean(true, 1);
          INDArray deviation = rewards.dup().subiColumnVector(mean);
          INDArray std =
              Transforms.sqrt(square(deviation).sum(true, 1).divi(in.members() - 1), false);
          return List.of(
              deviation.diviColumnVector(std.add(GroupAdvantageBenchmark.EPS)), mean, std);
        });
  }

  /** Softmax of rows, its parts kept: e^(x - max) is {@code exp}, {@code sum} its sum. */
  private static final class Softmax {
    final INDArray max;

    /** x - max. */
    final INDArray shifted;

    final INDArray exp;
    final INDArray sum;
    final INDArray logSum;

    /**
     * @param x [rows, columns]
     * @param keepShifted whether {@link #shifted} is needed, else {@link #exp} takes its place
     */
    Softmax(INDArray x, boolean keepShifted) {
      max = x.max(true, 1);
      INDArray difference = x.dup().subiColumnVector(max);
      exp = Transforms.exp(difference, keepShifted);
      shifted = keepShifted ? difference : null;
      sum = exp.sum(true, 1);
      logSum = Transforms.log(sum, true);
    }

    INDArray lse() {
      return max.add(logSum);
    }

    /** In the place of {@link #exp}. */
    INDArray probabilities() {
      return exp.diviColumnVector(sum);
    }
  }

  /** Logits, and the places of the targets in them. */
  private static final class Logits {
    final int rows;
    final int vocabulary;
    final INDArray values;
    final int[] targets;
    final INDArray places;

    Logits(LogitsBenchmark.Inputs in) {
      this(
          in.rows(),
          in.vocabulary(),
          tensor(in.logits(), in.rows(), in.vocabulary()),
          in.targets());
    }

    Logits(int rows, int vocabulary, INDArray values, int[] targets) {
      this.rows = rows;
      this.vocabulary = vocabulary;
      this.values = values;
      this.targets = targets;
      long[] flat = new long[rows];
      for (int r = 0; r < rows; r++) {
        flat[r] = (long) r * vocabulary + targets[r];
      }
      places = Nd4j.createFromArray(flat);
    }

    /** x[target] of each row, [rows, 1]. */
    INDArray target(INDArray x) {
      INDArray flat = x.reshape((long) rows * vocabulary);
      return Nd4j.exec(new Gather(flat, places, 0))[0].reshape(rows, 1);
    }

    INDArray logProb(Softmax softmax) {
      return target(values).subi(softmax.max).subi(softmax.logSum);
    }

    /** dLogProb · (1{target} - p), in the place of the softmax's exponentials. */
    INDArray gradient(Softmax softmax, INDArray dLogProb) {
      INDArray gradient = softmax.exp.muliColumnVector(dLogProb.div(softmax.sum).negi());
      for (int r = 0; r < rows; r++) {
        gradient.putScalar(r, targets[r], gradient.getFloat(r, targets[r]) + dLogProb.getFloat(r));
      }
      return gradient;
    }
  }

  @Override
  public Work tokenLogProbs(LogitsBenchmark.Inputs in) {
    Logits logits = new Logits(in);
    return work(
        () -> {
          Softmax softmax = new Softmax(logits.values, true);
          INDArray logProb = logits.logProb(softmax);
          INDArray mean = softmax.exp.muli(softmax.shifted).sum(true, 1).divi(softmax.sum);
          return List.of(logProb, softmax.logSum.sub(mean), softmax.lse());
        });
  }

  @Override
  public Work tokenLogProbsGradient(LogitsBenchmark.Inputs in) {
    Logits logits = new Logits(in);
    INDArray dLogProb = tensor(in.weights(), in.rows(), 1);
    return work(
        () -> {
          Softmax softmax = new Softmax(logits.values, false);
          return List.of(logits.logProb(softmax), logits.gradient(softmax, dLogProb));
        });
  }

  @Override
  public Work sampledKl(SampledKlBenchmark.Inputs in) {
    INDArray logProb = tensor(in.logProb());
    INDArray refLogProb = tensor(in.refLogProb());
    return work(
        () -> {
          INDArray delta = clip(refLogProb.sub(logProb), -20, 20);
          INDArray expm1 = Transforms.expm1(delta, true);
          return List.of(expm1.sub(delta), expm1.negi());
        });
  }

  @Override
  public Work logitDivergence(LogitsBenchmark.Inputs in) {
    INDArray logits = tensor(in.logits(), in.rows(), in.vocabulary());
    INDArray refLogits = tensor(in.refLogits(), in.rows(), in.vocabulary());
    INDArray weights = tensor(in.weights(), in.rows(), 1);
    return work(
        () -> {
          Softmax policy = new Softmax(logits, true);
          Softmax reference = new Softmax(refLogits, true);
          INDArray p = policy.probabilities();
          INDArray r = reference.probabilities();
          INDArray logM = Transforms.log(p.add(r).muli(0.5), false);
          INDArray logPm = policy.shifted.subiColumnVector(policy.logSum).subi(logM);
          INDArray logRm = reference.shifted.subiColumnVector(reference.logSum).subi(logM);
          INDArray klP = p.mul(logPm).sum(true, 1);
          INDArray klR = r.muli(logRm).sum(true, 1);
          INDArray gradient =
              p.muli(logPm.subiColumnVector(klP)).muliColumnVector(weights.mul(0.5));
          return List.of(klR.addi(klP).muli(0.5), gradient);
        });
  }

  /** Tensors of a {@link PolicyBatch}. */
  private static final class Batch {
    final INDArray oldLogProb;
    final INDArray refLogProb;
    final INDArray advantage;
    final INDArray mask;

    Batch(PolicyBatch batch) {
      oldLogProb = tensor(batch.oldLogProb());
      refLogProb = tensor(batch.refLogProb());
      advantage = tensor(batch.advantage());
      mask = tensor(batch.floatMask());
    }

    /** Loss and d_log_prob. */
    List<INDArray> loss(INDArray logProb) {
      double active = mask.sumNumber().doubleValue();
      INDArray ratio = Transforms.exp(clip(logProb.sub(oldLogProb), -20, 20), false);
      INDArray clipped = clip(ratio.dup(), 1 - PolicyBatch.CLIP, 1 + PolicyBatch.CLIP).muli(advantage);
      INDArray objective = ratio.muli(advantage);
      INDArray passes = objective.gt(clipped).castTo(DataType.FLOAT).rsubi(1);
      INDArray delta = clip(refLogProb.sub(logProb), -20, 20);
      INDArray expm1 = Transforms.expm1(delta, true);
      INDArray kl = expm1.sub(delta).muli(PolicyBatch.KL_COEF);
      INDArray loss =
          kl.subi(Transforms.min(objective, clipped, true)).muli(mask).sum().divi(active);
      INDArray gradient =
          objective.muli(passes).addi(expm1.muli(PolicyBatch.KL_COEF)).muli(mask).divi(-active);
      return List.of(loss, gradient);
    }
  }

  @Override
  public Work policyLoss(PolicyBatch batch, float[] logProb) {
    Batch tensors = new Batch(batch);
    INDArray input = tensor(logProb);
    return work(() -> tensors.loss(input));
  }

  @Override
  public Work policyLossFromLogits(LogitsBenchmark.Inputs in, PolicyBatch batch) {
    Batch tensors = new Batch(batch);
    Logits logits = new Logits(in);
    return work(
        () -> {
          Softmax softmax = new Softmax(logits.values, false);
          INDArray logProb = logits.logProb(softmax).reshape(in.rows());
          List<INDArray> loss = tensors.loss(logProb);
          INDArray dLogProb = loss.get(1).reshape(in.rows(), 1);
          return List.of(loss.get(0), logProb, logits.gradient(softmax, dLogProb));
        });
  }

  @Override
  public Work linearPolicyLoss(LinearPolicyLossBenchmark.Inputs in) {
    Batch tensors = new Batch(in.batch());
    INDArray hidden = tensor(in.hidden(), in.rows(), in.hiddenSize());
    INDArray weight = tensor(in.weight(), in.vocabulary(), in.hiddenSize());
    return work(
        () -> {
          INDArray product = Nd4j.matmul(hidden, weight, false, true, false);
          Logits logits = new Logits(in.rows(), in.vocabulary(), product, in.targets());
          Softmax softmax = new Softmax(product, false);
          INDArray logProb = logits.logProb(softmax).reshape(in.rows());
          List<INDArray> loss = tensors.loss(logProb);
          INDArray dLogits = logits.gradient(softmax, loss.get(1).reshape(in.rows(), 1));
          return List.of(
              loss.get(0),
              logProb,
              Nd4j.matmul(dLogits, weight, false, false, false),
              Nd4j.matmul(dLogits, hidden, true, false, false));
        });
  }

  /**
   * Attention with the heads that share keys as rows of one product: q [kvHeads, group·rows, dim],
   * k and v [kvHeads, keys, dim].
   */
  private static final class Heads {
    final AttentionInputs.Shape shape;
    final long group;
    final double scale;
    final INDArray q;
    final INDArray k;
    final INDArray v;

    /** 0 where a row sees a key, else -inf. */
    final INDArray causal;

    Heads(AttentionInputs in) {
      shape = in.shape();
      group = shape.heads() / shape.kvHeads();
      scale = 1 / Math.sqrt(shape.dim());
      q = queries(in.q());
      k = keys(in.k());
      v = keys(in.v());
      causal = tensor(shape.mask(0, Float.NEGATIVE_INFINITY, true), shape.rows(), shape.keys());
    }

    INDArray queries(float[] values) {
      return tensor(values, shape.rows(), shape.kvHeads(), group, shape.dim())
          .permute(1, 2, 0, 3)
          .dup('c')
          .reshape(shape.kvHeads(), group * shape.rows(), shape.dim());
    }

    private INDArray keys(float[] values) {
      return tensor(values, shape.keys(), shape.kvHeads(), shape.dim()).permute(1, 0, 2).dup('c');
    }

    /** The softmax of the scores, [heads·rows, keys]. */
    Softmax softmax() {
      INDArray scores = Nd4j.matmul(q.mul(scale), k, false, true, false);
      return new Softmax(rows(byHead(scores).addi(causal)), false);
    }

    INDArray byHead(INDArray array) {
      return array.reshape(shape.heads(), shape.rows(), shape.keys());
    }

    /** [heads·rows, keys]. */
    INDArray rows(INDArray array) {
      return array.reshape((long) shape.heads() * shape.rows(), shape.keys());
    }

    /** [kvHeads, group·rows, keys]. */
    INDArray byKvHead(INDArray array) {
      return array.reshape(shape.kvHeads(), group * shape.rows(), shape.keys());
    }

    /** The mean over the heads on the support, [rows, keys], not normalised. */
    INDArray mean(INDArray probabilities, INDArray support) {
      return probabilities
          .reshape(shape.heads(), (long) shape.rows() * shape.keys())
          .mean(0)
          .reshape(shape.rows(), shape.keys())
          .muli(support);
    }

    /** dq, from the gradient of the scores. */
    INDArray dq(INDArray dScores) {
      return packedQueries(Nd4j.matmul(dScores, k, false, false, false).muli(scale));
    }

    INDArray dk(INDArray dScores) {
      return packedKeys(Nd4j.matmul(dScores, q, true, false, false).muli(scale));
    }

    /** A view [rows, heads, dim]. */
    INDArray packedQueries(INDArray array) {
      return array.reshape(shape.kvHeads(), group, shape.rows(), shape.dim()).permute(2, 0, 1, 3);
    }

    /** A view [keys, kvHeads, dim]. */
    INDArray packedKeys(INDArray array) {
      return array.permute(1, 0, 2);
    }

    /** 1 on the support PREVIOUS, else 0. */
    INDArray support() {
      return tensor(shape.mask(1, 0, false), shape.rows(), shape.keys());
    }
  }

  private static INDArray logFloored(INDArray array) {
    return Transforms.log(Transforms.max(array, Float.MIN_NORMAL, true), false);
  }

  @Override
  public Work attentionPolicy(AttentionInputs in) {
    Heads heads = new Heads(in);
    INDArray support = heads.support();
    return work(
        () -> {
          Softmax softmax = heads.softmax();
          INDArray map = heads.mean(softmax.probabilities(), support);
          INDArray mass = map.sum(true, 1);
          map.diviColumnVector(mass);
          INDArray entropy = logFloored(map).muli(map).sum(1).negi();
          return List.of(entropy, mass, softmax.lse(), map);
        });
  }

  @Override
  public Work attentionDivergence(AttentionInputs in) {
    Heads heads = new Heads(in);
    INDArray support = heads.support();
    INDArray ref = tensor(in.ref(), in.shape().rows(), in.shape().keys());
    INDArray weights = tensor(in.weights(), in.shape().rows(), 1);
    return work(
        () -> {
          INDArray perHead = heads.softmax().probabilities();
          INDArray p = heads.mean(perHead, support);
          INDArray mass = p.sum(true, 1);
          p.diviColumnVector(mass);
          INDArray logM = logFloored(p.add(ref).muli(0.5));
          INDArray logPm = logFloored(p).subi(logM);
          INDArray logRm = logFloored(ref).subi(logM);
          INDArray klP = p.muli(logPm).sum(true, 1);
          INDArray klR = logRm.muli(ref).sum(true, 1);
          INDArray loss = klR.addi(klP).muli(weights).sum().muli(0.5);
          // (g - Σ p·g)/Z on the support, the same for all heads; g = weight·log(p/M)/2.
          INDArray dMean =
              logPm
                  .subiColumnVector(klP)
                  .muli(support)
                  .muliColumnVector(weights.div(mass).divi(2.0 * in.shape().heads()));
          INDArray dScores = heads.rows(heads.byHead(perHead).mul(dMean));
          INDArray delta = dScores.sum(true, 1);
          dScores.subi(perHead.muliColumnVector(delta));
          INDArray grouped = heads.byKvHead(dScores);
          return List.of(loss, heads.dq(grouped), heads.dk(grouped));
        });
  }

  @Override
  public Work attention(AttentionInputs in) {
    Heads heads = new Heads(in);
    return work(
        () -> {
          INDArray p = heads.byKvHead(heads.softmax().probabilities());
          return List.of(heads.packedQueries(Nd4j.matmul(p, heads.v, false, false, false)));
        });
  }

  @Override
  public Work attentionGradient(AttentionInputs in) {
    Heads heads = new Heads(in);
    INDArray dO = heads.queries(in.dO());
    return work(
        () -> {
          INDArray rows = heads.softmax().probabilities();
          INDArray p = heads.byKvHead(rows);
          INDArray o = Nd4j.matmul(p, heads.v, false, false, false);
          INDArray dv = Nd4j.matmul(p, dO, true, false, false);
          INDArray dP = heads.rows(Nd4j.matmul(dO, heads.v, false, true, false));
          INDArray delta = o.mul(dO).sum(2).reshape(rows.rows(), 1);
          INDArray dScores = heads.byKvHead(dP.subiColumnVector(delta).muli(rows));
          return List.of(
              heads.packedQueries(o), heads.dq(dScores), heads.dk(dScores), heads.packedKeys(dv));
        });
  }

  @Override
  public Work adamW(AdamWBenchmark.Inputs in) {
    INDArray[] params = Arrays.stream(in.params()).map(Nd4j::create).toArray(INDArray[]::new);
    INDArray[] grads = Arrays.stream(in.grads()).map(Nd4j::create).toArray(INDArray[]::new);
    INDArray[] u = Arrays.stream(params).map(INDArray::like).toArray(INDArray[]::new);
    INDArray[] m = Arrays.stream(params).map(INDArray::like).toArray(INDArray[]::new);
    int[] iteration = {0};
    return inPlace(
        () -> {
          for (int i = 0; i < params.length; i++) {
            INDArray update = grads[i].ulike();
            Nd4j.exec(
                new AdamUpdater(
                    grads[i],
                    u[i],
                    m[i],
                    update,
                    u[i],
                    m[i],
                    AdamWBenchmark.LR,
                    AdamWBenchmark.BETA1,
                    AdamWBenchmark.BETA2,
                    AdamWBenchmark.EPS,
                    iteration[0]));
            params[i].muli(1 - AdamWBenchmark.LR * AdamWBenchmark.WEIGHT_DECAY).subi(update);
          }
          iteration[0]++;
        },
        params);
  }

  @Override
  public Work gradNorm(float[][] gradients) {
    INDArray[] tensors = Arrays.stream(gradients).map(Nd4j::create).toArray(INDArray[]::new);
    return work(
        () -> {
          double squares = 0;
          for (INDArray tensor : tensors) {
            double norm = tensor.norm2Number().doubleValue();
            squares += norm * norm;
          }
          double norm = Math.sqrt(squares);
          return List.of(
              Nd4j.scalar((float) norm), Nd4j.scalar((float) Math.min(1, 1 / (norm + 1e-6))));
        });
  }

  @Override
  public Work gradientMoments(GradientMomentsBenchmark.Inputs in) {
    INDArray sample = tensor(in.sample());
    INDArray mean = tensor(in.mean());
    INDArray m2 = Nd4j.create(in.m2());
    long[] count = {in.count()};
    return inPlace(
        () -> {
          count[0]++;
          INDArray before = sample.sub(mean);
          mean.addi(before.div(count[0]));
          m2.addi(before.muli(sample.sub(mean)).castTo(DataType.DOUBLE));
        },
        mean,
        m2);
  }

  @Override
  public Work gemm(GemmBenchmark.Inputs in) {
    INDArray a = tensor(in.a(), in.size(), in.size());
    INDArray b = tensor(in.b(), in.size(), in.size());
    return work(() -> List.of(Nd4j.matmul(a, b)));
  }

  /** 1/√(mean(x²) + eps), [rows, 1]. */
  private static INDArray rstd(INDArray x) {
    INDArray mean = square(x).mean(true, 1).addi(RmsNormBenchmark.EPS);
    return Transforms.sqrt(mean, false).rdivi(1);
  }

  @Override
  public Work rmsNorm(RmsNormBenchmark.Inputs in) {
    INDArray x = tensor(in.x(), in.rows(), in.columns());
    INDArray weight = tensor(in.weight(), 1, in.columns());
    return work(() -> List.of(x.dup().muliColumnVector(rstd(x)).muliRowVector(weight)));
  }

  @Override
  public Work rmsNormGradient(RmsNormBenchmark.Inputs in) {
    INDArray x = tensor(in.x(), in.rows(), in.columns());
    INDArray weight = tensor(in.weight(), 1, in.columns());
    INDArray dy = tensor(in.dy(), in.rows(), in.columns());
    return work(
        () -> {
          INDArray rstd = rstd(x);
          INDArray normed = x.dup().muliColumnVector(rstd);
          INDArray y = normed.dup().muliRowVector(weight);
          INDArray dWeight = dy.mul(normed).sum(0);
          INDArray dNormed = dy.dup().muliRowVector(weight);
          INDArray mean = dNormed.mul(normed).mean(true, 1);
          INDArray dx = dNormed.subi(normed.muliColumnVector(mean)).muliColumnVector(rstd);
          return List.of(y, dx, dWeight);
        });
  }

  /** Gate and up as arrays of their own: operators take many times longer on views of columns. */
  private static INDArray[] halves(SwiGluBenchmark.Inputs in, INDArray x) {
    INDArray gate = Nd4j.createUninitialized(DataType.FLOAT, in.rows(), in.columns());
    INDArray up = gate.ulike();
    return Nd4j.exec(
        DynamicCustomOp.builder("split")
            .addInputs(x)
            .addIntegerArguments(2, 1)
            .addOutputs(gate, up)
            .build());
  }

  @Override
  public Work swiGlu(SwiGluBenchmark.Inputs in) {
    INDArray x = tensor(in.x(), in.rows(), 2L * in.columns());
    return work(
        () -> {
          INDArray[] halves = halves(in, x);
          INDArray sigmoid = Transforms.sigmoid(halves[0], true);
          return List.of(sigmoid.muli(halves[0]).muli(halves[1]));
        });
  }

  @Override
  public Work swiGluGradient(SwiGluBenchmark.Inputs in) {
    INDArray x = tensor(in.x(), in.rows(), 2L * in.columns());
    INDArray dy = tensor(in.dy(), in.rows(), in.columns());
    return work(
        () -> {
          INDArray[] halves = halves(in, x);
          INDArray gate = halves[0];
          INDArray up = halves[1];
          INDArray sigmoid = Transforms.sigmoid(gate, true);
          INDArray silu = gate.muli(sigmoid);
          INDArray y = silu.mul(up);
          // silu' = σ + silu·(1 - σ)
          INDArray slope = sigmoid.rsub(1).muli(silu).addi(sigmoid);
          INDArray dx = Nd4j.concat(1, slope.muli(up).muli(dy), silu.muli(dy));
          return List.of(y, dx);
        });
  }

  @Override
  public Work sampleTokens(SampleTokensBenchmark.Inputs in) {
    LogitsBenchmark.Inputs rows = in.logits();
    INDArray logits = tensor(rows.logits(), rows.rows(), rows.vocabulary());
    INDArray uniform = tensor(in.uniform(), rows.rows(), 1);
    return work(
        () -> {
          INDArray exp = Transforms.exp(logits.dup().subiColumnVector(logits.max(true, 1)), false);
          INDArray cumulative = exp.ulike();
          Nd4j.exec(new CumSum(exp, cumulative, false, false, 1));
          INDArray sum = cumulative.getColumn(rows.vocabulary() - 1L, true);
          INDArray beyond = cumulative.subiColumnVector(uniform.mul(sum));
          INDArray tokens =
              Nd4j.getExecutioner()
                  .exec(new MatchCondition(beyond, Conditions.lessThanOrEqual(0), 1));
          return List.of(tokens);
        });
  }

  @Override
  public Work gatherRows(RowsInputs in) {
    INDArray table = tensor(in.table(), in.tableRows(), in.columns());
    return work(() -> List.of(Nd4j.pullRows(table, 1, in.index())));
  }

  @Override
  public Work scatterAddRows(RowsInputs in) {
    INDArray table = tensor(in.table(), in.tableRows(), in.columns());
    INDArray rows = tensor(in.rows(), in.index().length, in.columns());
    INDArray index = Nd4j.createFromArray(in.index());
    return inPlace(
        () -> {
          ScatterAdd add = new ScatterAdd(table, index, rows);
          add.addOutputArgument(table);
          add.addBArgument(true); // one thread: rows of equal index race otherwise
          Nd4j.exec(add);
        },
        table);
  }

  @Override
  public Work axpby(AxpbyBenchmark.Inputs in) {
    INDArray x = tensor(in.x(), in.rows(), in.columns());
    INDArray y = tensor(in.y(), in.rows(), in.columns());
    return inPlace(
        () -> {
          y.muli(AxpbyBenchmark.B);
          Nd4j.getBlasWrapper().level1().axpy(x.length(), AxpbyBenchmark.A, x, y);
        },
        y);
  }

  @Override
  public Work copy(AxpbyBenchmark.Inputs in) {
    INDArray x = tensor(in.x(), in.rows(), in.columns());
    INDArray y = tensor(in.y(), in.rows(), in.columns());
    return inPlace(() -> y.assign(x), y);
  }
}
