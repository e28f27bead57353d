package dev.saccade.benchmarks.peers;

import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDArrays;
import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.NDScope;
import ai.djl.ndarray.index.NDIndex;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.ndarray.types.SparseFormat;
import ai.djl.nn.core.Linear;
import ai.djl.pytorch.engine.PtNDArray;
import ai.djl.pytorch.jni.JniUtils;
import ai.djl.training.GradientCollector;
import ai.djl.training.optimizer.AdamW;
import ai.djl.training.optimizer.Optimizer;
import ai.djl.training.tracker.Tracker;
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
import java.nio.FloatBuffer;
import java.util.Arrays;
import java.util.List;
import java.util.function.Supplier;
import java.util.stream.LongStream;

/**
 * DJL with its PyTorch engine. Gradients are autograd's, of a leaf that is new in every run, so
 * that nothing is accumulated; arrays are changed in place where a result is not needed again.
 */
public final class DjlEngine implements Engine {
  private static final float FLOOR = Float.MIN_NORMAL;

  /** Makes the engine. */
  public static final class Provider implements Engine.Provider {
    @Override
    public String name() {
      return "djl";
    }

    @Override
    public Engine open(int threads) {
      return new DjlEngine(threads);
    }
  }

  private final ai.djl.engine.Engine engine = ai.djl.engine.Engine.getEngine("PyTorch");
  private final NDManager manager = engine.newBaseManager();

  private DjlEngine(int threads) {
    JniUtils.setNumThreads(threads);
  }

  @Override
  public int threads() {
    return JniUtils.getNumThreads();
  }

  @Override
  public void close() {
    manager.close();
  }

  /** Frees what {@code body} makes, but its results. */
  private static NDList scoped(Supplier<NDList> body) {
    try (NDScope scope = new NDScope()) {
      scope.suppressNotUsedWarning();
      NDList results = body.get();
      NDScope.unregister(results);
      return results;
    }
  }

  /** New results in every run; they are freed when the next begins. */
  private static Work work(Supplier<NDList> body) {
    return new Work() {
      private NDList results = new NDList();

      @Override
      public NDList run() {
        results.close();
        results = scoped(body);
        return results;
      }

      @Override
      public List<float[]> results() {
        return run().stream().map(DjlEngine::floats).toList();
      }
    };
  }

  /** Changes {@code state}, which stays; frees what {@code body} makes. */
  private static Work inPlace(Runnable body, NDArray... state) {
    return keeping(
        () ->
            scoped(
                () -> {
                  body.run();
                  return new NDList();
                }),
        state);
  }

  /** Changes {@code state}; frees nothing. */
  private static Work keeping(Runnable body, NDArray... state) {
    return new Work() {
      @Override
      public Object run() {
        body.run();
        return state;
      }

      @Override
      public List<float[]> results() {
        body.run();
        return Arrays.stream(state).map(DjlEngine::floats).toList();
      }
    };
  }

  private static float[] floats(NDArray array) {
    return array.toType(DataType.FLOAT32, false).toFloatArray();
  }

  private NDArray tensor(float[] values, long... shape) {
    return manager.create(values, shape.length == 0 ? new Shape(values.length) : new Shape(shape));
  }

  /** Indices, [n]. */
  private NDArray indices(int[] values) {
    return manager.create(longs(values));
  }

  private static long[] longs(int[] values) {
    return Arrays.stream(values).asLongStream().toArray();
  }

  private static NDArray leaf(NDArray array) {
    NDArray leaf = array.stopGradient();
    leaf.setRequiresGradient(true);
    return leaf;
  }

  /** The forward pass with its tape, and the way back from a given gradient of its result. */
  private NDArray backward(Supplier<NDArray> forward, NDArray gradient) {
    try (GradientCollector collector = engine.newGradientCollector()) {
      NDArray result = forward.get();
      // What GradientCollector.backward calls with ones: Σ gradient·result would cost passes more.
      JniUtils.backward((PtNDArray) result, (PtNDArray) gradient, false, false);
      return result.stopGradient();
    }
  }

  /** The same for a scalar. */
  private NDArray backward(Supplier<NDArray> loss) {
    try (GradientCollector collector = engine.newGradientCollector()) {
      NDArray result = loss.get();
      collector.backward(result);
      return result.stopGradient();
    }
  }

  @Override
  public Work groupAdvantage(GroupAdvantageBenchmark.Inputs in) {
    NDArray rewards = tensor(in.rewards(), in.groups(), in.members());
    return work(
        () -> {
          NDArray mean = rewards.mean(new int[] {1}, true);
          NDArray deviation = rewards.sub(mean);
          NDArray std = deviation.square().sum(new int[] {1}, true).divi(in.members() - 1).sqrt();
          return new NDList(deviation.divi(std.add(GroupAdvantageBenchmark.EPS)), mean, std);
        });
  }

  @Override
  public Work tokenLogProbs(LogitsBenchmark.Inputs in) {
    NDArray logits = tensor(in.logits(), in.rows(), in.vocabulary());
    NDArray targets = indices(in.targets()).expandDims(1);
    return work(
        () -> {
          NDArray logSoftmax = logits.logSoftmax(1);
          NDArray logProb = logSoftmax.gather(targets, 1);
          NDArray lse = logits.gather(targets, 1).subi(logProb);
          NDArray entropy = logSoftmax.exp().muli(logSoftmax).sum(new int[] {1}).negi();
          return new NDList(logProb, entropy, lse);
        });
  }

  @Override
  public Work tokenLogProbsGradient(LogitsBenchmark.Inputs in) {
    NDArray logits = tensor(in.logits(), in.rows(), in.vocabulary());
    NDArray targets = indices(in.targets()).expandDims(1);
    NDArray dLogProb = tensor(in.weights(), in.rows(), 1);
    return work(
        () -> {
          NDArray leaf = leaf(logits);
          NDArray logProb = backward(() -> leaf.logSoftmax(1).gather(targets, 1), dLogProb);
          return new NDList(logProb, leaf.getGradient());
        });
  }

  @Override
  public Work sampledKl(SampledKlBenchmark.Inputs in) {
    NDArray logProb = tensor(in.logProb());
    NDArray refLogProb = tensor(in.refLogProb());
    return work(
        () -> {
          NDArray delta = refLogProb.sub(logProb).clip(-20, 20);
          NDArray expm1 = delta.exp().subi(1);
          return new NDList(expm1.sub(delta), expm1.negi());
        });
  }

  @Override
  public Work logitDivergence(LogitsBenchmark.Inputs in) {
    NDArray logits = tensor(in.logits(), in.rows(), in.vocabulary());
    NDArray refLogits = tensor(in.refLogits(), in.rows(), in.vocabulary());
    NDArray weights = tensor(in.weights());
    return work(
        () -> {
          NDArray logR = refLogits.logSoftmax(1);
          NDArray r = logR.exp();
          NDArray leaf = leaf(logits);
          NDArray divergence =
              backward(
                  () -> {
                    NDArray logP = leaf.logSoftmax(1);
                    NDArray p = logP.exp();
                    NDArray logM = p.add(r).mul(0.5f).log();
                    return r.mul(logR.sub(logM))
                        .add(p.mul(logP.sub(logM)))
                        .sum(new int[] {1})
                        .mul(0.5f);
                  },
                  weights);
          return new NDList(divergence, leaf.getGradient());
        });
  }

  /** Tensors of a {@link PolicyBatch}. */
  private final class Batch {
    final NDArray oldLogProb;
    final NDArray refLogProb;
    final NDArray advantage;
    final NDArray mask;

    Batch(PolicyBatch batch) {
      oldLogProb = tensor(batch.oldLogProb());
      refLogProb = tensor(batch.refLogProb());
      advantage = tensor(batch.advantage());
      mask = tensor(batch.floatMask());
    }

    NDArray loss(NDArray logProb) {
      NDArray ratio = logProb.sub(oldLogProb).clip(-20, 20).exp();
      NDArray clipped = ratio.clip(1 - PolicyBatch.CLIP, 1 + PolicyBatch.CLIP);
      NDArray objective = ratio.mul(advantage).minimum(clipped.mul(advantage));
      NDArray delta = refLogProb.sub(logProb).clip(-20, 20);
      NDArray kl = delta.exp().sub(1).sub(delta);
      return kl.mul(PolicyBatch.KL_COEF).sub(objective).mul(mask).sum().div(mask.sum());
    }
  }

  @Override
  public Work policyLoss(PolicyBatch batch, float[] logProb) {
    Batch tensors = new Batch(batch);
    NDArray input = tensor(logProb);
    return work(
        () -> {
          NDArray leaf = leaf(input);
          NDArray loss = backward(() -> tensors.loss(leaf));
          return new NDList(loss, leaf.getGradient());
        });
  }

  @Override
  public Work policyLossFromLogits(LogitsBenchmark.Inputs in, PolicyBatch batch) {
    Batch tensors = new Batch(batch);
    NDArray logits = tensor(in.logits(), in.rows(), in.vocabulary());
    NDArray targets = indices(in.targets()).expandDims(1);
    return work(
        () -> {
          NDArray leaf = leaf(logits);
          NDList logProb = new NDList();
          NDArray loss =
              backward(
                  () -> {
                    logProb.add(leaf.logSoftmax(1).gather(targets, 1).squeeze(1));
                    return tensors.loss(logProb.head());
                  });
          return new NDList(loss, logProb.head().stopGradient(), leaf.getGradient());
        });
  }

  @Override
  public Work linearPolicyLoss(LinearPolicyLossBenchmark.Inputs in) {
    Batch tensors = new Batch(in.batch());
    NDArray hidden = tensor(in.hidden(), in.rows(), in.hiddenSize());
    NDArray weight = tensor(in.weight(), in.vocabulary(), in.hiddenSize());
    NDArray targets = indices(in.targets()).expandDims(1);
    return work(
        () -> {
          NDArray h = leaf(hidden);
          NDArray w = leaf(weight);
          NDList logProb = new NDList();
          NDArray loss =
              backward(
                  () -> {
                    NDArray logits = Linear.linear(h, w).singletonOrThrow();
                    logProb.add(logits.logSoftmax(1).gather(targets, 1).squeeze(1));
                    return tensors.loss(logProb.head());
                  });
          return new NDList(loss, logProb.head().stopGradient(), h.getGradient(), w.getGradient());
        });
  }

  /**
   * Attention with the heads that share keys as rows of one product: q [kvHeads, group·rows, dim],
   * k and v [kvHeads, keys, dim]. DJL has no fused attention.
   */
  private final class Heads {
    final AttentionInputs.Shape shape;
    final long group;
    final NDArray q;
    final NDArray k;
    final NDArray v;

    /** 0 where a row sees a key, else -inf. */
    final NDArray causal;

    Heads(AttentionInputs in) {
      shape = in.shape();
      group = shape.heads() / shape.kvHeads();
      q = queries(in.q());
      k = keys(in.k());
      v = keys(in.v());
      causal = tensor(shape.mask(0, Float.NEGATIVE_INFINITY, true), shape.rows(), shape.keys());
    }

    NDArray queries(float[] values) {
      return tensor(values, shape.rows(), shape.kvHeads(), group, shape.dim())
          .transpose(1, 2, 0, 3)
          .reshape(shape.kvHeads(), group * shape.rows(), shape.dim());
    }

    private NDArray keys(float[] values) {
      return tensor(values, shape.keys(), shape.kvHeads(), shape.dim())
          .transpose(1, 0, 2)
          .reshape(shape.kvHeads(), shape.keys(), shape.dim());
    }

    /** [heads, rows, keys], -inf where a row does not see a key. */
    NDArray scores(NDArray queries, NDArray keys) {
      return queries
          .mul(1 / Math.sqrt(shape.dim()))
          .matMul(keys.swapAxes(1, 2))
          .reshape(shape.heads(), shape.rows(), shape.keys())
          .addi(causal);
    }

    NDArray attend(NDArray queries, NDArray keys, NDArray values) {
      return scores(queries, keys)
          .softmax(2)
          .reshape(shape.kvHeads(), group * shape.rows(), shape.keys())
          .matMul(values);
    }

    /** A view [rows, heads, dim]. */
    NDArray packedQueries(NDArray array) {
      return array.reshape(shape.kvHeads(), group, shape.rows(), shape.dim()).transpose(2, 0, 1, 3);
    }

    /** A view [keys, kvHeads, dim]. */
    NDArray packedKeys(NDArray array) {
      return array.transpose(1, 0, 2);
    }

    /** 1 on the support PREVIOUS, else 0. */
    NDArray support() {
      return tensor(shape.mask(1, 0, false), shape.rows(), shape.keys());
    }
  }

  @Override
  public Work attentionPolicy(AttentionInputs in) {
    Heads heads = new Heads(in);
    NDArray support = heads.support();
    return work(
        () -> {
          NDArray scores = heads.scores(heads.q, heads.k);
          NDArray logP = scores.logSoftmax(2);
          NDArray lse = scores.get(FIRST_KEY).sub(logP.get(FIRST_KEY));
          NDArray map = logP.exp().mean(new int[] {0}).muli(support);
          NDArray mass = map.sum(new int[] {1}, true);
          map.divi(mass);
          NDArray entropy = map.maximum(FLOOR).log().muli(map).sum(new int[] {1}).negi();
          return new NDList(entropy, mass, lse, map);
        });
  }

  private static final NDIndex FIRST_KEY = new NDIndex(":, :, 0");

  @Override
  public Work attentionDivergence(AttentionInputs in) {
    Heads heads = new Heads(in);
    NDArray support = heads.support();
    NDArray ref = tensor(in.ref(), in.shape().rows(), in.shape().keys());
    NDArray weights = tensor(in.weights());
    return work(
        () -> {
          NDArray q = leaf(heads.q);
          NDArray k = leaf(heads.k);
          NDArray logRef = ref.maximum(FLOOR).log();
          NDArray loss =
              backward(
                  () -> {
                    NDArray mean = heads.scores(q, k).softmax(2).mean(new int[] {0}).mul(support);
                    NDArray p = mean.div(mean.sum(new int[] {1}, true));
                    NDArray logM = p.add(ref).mul(0.5f).maximum(FLOOR).log();
                    NDArray logP = p.maximum(FLOOR).log();
                    NDArray divergence =
                        ref.mul(logRef.sub(logM))
                            .add(p.mul(logP.sub(logM)))
                            .sum(new int[] {1})
                            .mul(0.5f);
                    return divergence.mul(weights).sum();
                  });
          return new NDList(
              loss, heads.packedQueries(q.getGradient()), heads.packedKeys(k.getGradient()));
        });
  }

  @Override
  public Work attention(AttentionInputs in) {
    Heads heads = new Heads(in);
    return work(() -> new NDList(heads.packedQueries(heads.attend(heads.q, heads.k, heads.v))));
  }

  @Override
  public Work attentionGradient(AttentionInputs in) {
    Heads heads = new Heads(in);
    NDArray dO = heads.queries(in.dO());
    return work(
        () -> {
          NDArray q = leaf(heads.q);
          NDArray k = leaf(heads.k);
          NDArray v = leaf(heads.v);
          NDArray o = backward(() -> heads.attend(q, k, v), dO);
          return new NDList(
              heads.packedQueries(o),
              heads.packedQueries(q.getGradient()),
              heads.packedKeys(k.getGradient()),
              heads.packedKeys(v.getGradient()));
        });
  }

  @Override
  public Work adamW(AdamWBenchmark.Inputs in) {
    NDArray[] params = Arrays.stream(in.params()).map(this::tensor).toArray(NDArray[]::new);
    NDArray[] grads = Arrays.stream(in.grads()).map(this::tensor).toArray(NDArray[]::new);
    Optimizer optimizer =
        AdamW.builder()
            .optLearningRateTracker(Tracker.fixed(AdamWBenchmark.LR))
            .optBeta1(AdamWBenchmark.BETA1)
            .optBeta2(AdamWBenchmark.BETA2)
            .optEpsilon(AdamWBenchmark.EPS)
            .optWeightDecays(AdamWBenchmark.WEIGHT_DECAY)
            .build();
    // The optimizer makes its moments in the first step.
    return keeping(
        () -> {
          for (int i = 0; i < params.length; i++) {
            optimizer.update(Integer.toString(i), params[i], grads[i]);
          }
        },
        params);
  }

  @Override
  public Work gradNorm(float[][] gradients) {
    NDArray[] tensors = Arrays.stream(gradients).map(this::tensor).toArray(NDArray[]::new);
    return work(
        () -> {
          NDList norms = new NDList();
          for (NDArray tensor : tensors) {
            norms.add(tensor.norm());
          }
          NDArray norm = NDArrays.stack(norms).norm();
          return new NDList(norm, NDArrays.minimum(1f, NDArrays.div(1f, norm.add(1e-6f))));
        });
  }

  @Override
  public Work gradientMoments(GradientMomentsBenchmark.Inputs in) {
    NDArray sample = tensor(in.sample());
    NDArray mean = tensor(in.mean());
    NDArray m2 = manager.create(in.m2());
    long[] count = {in.count()};
    return inPlace(
        () -> {
          count[0]++;
          NDArray before = sample.sub(mean);
          mean.addi(before.div(count[0]));
          m2.addi(before.muli(sample.sub(mean)));
        },
        mean,
        m2);
  }

  @Override
  public Work gemm(GemmBenchmark.Inputs in) {
    NDArray a = tensor(in.a(), in.size(), in.size());
    NDArray b = tensor(in.b(), in.size(), in.size());
    return work(() -> new NDList(a.matMul(b)));
  }

  private static NDArray normed(NDArray x) {
    return x.div(x.square().mean(new int[] {1}, true).add(RmsNormBenchmark.EPS).sqrt());
  }

  @Override
  public Work rmsNorm(RmsNormBenchmark.Inputs in) {
    NDArray x = tensor(in.x(), in.rows(), in.columns());
    NDArray weight = tensor(in.weight());
    return work(() -> new NDList(normed(x).muli(weight)));
  }

  @Override
  public Work rmsNormGradient(RmsNormBenchmark.Inputs in) {
    NDArray x = tensor(in.x(), in.rows(), in.columns());
    NDArray weight = tensor(in.weight());
    NDArray dy = tensor(in.dy(), in.rows(), in.columns());
    return work(
        () -> {
          NDArray leaf = leaf(x);
          NDArray w = leaf(weight);
          NDArray y = backward(() -> normed(leaf).mul(w), dy);
          return new NDList(y, leaf.getGradient(), w.getGradient());
        });
  }

  @Override
  public Work swiGlu(SwiGluBenchmark.Inputs in) {
    NDArray x = tensor(in.x(), in.rows(), 2L * in.columns());
    return work(
        () -> {
          NDList halves = x.split(2, 1);
          NDArray gate = halves.get(0);
          NDArray sigmoid = gate.getNDArrayInternal().sigmoid();
          return new NDList(sigmoid.muli(gate).muli(halves.get(1)));
        });
  }

  @Override
  public Work swiGluGradient(SwiGluBenchmark.Inputs in) {
    NDArray x = tensor(in.x(), in.rows(), 2L * in.columns());
    NDArray dy = tensor(in.dy(), in.rows(), in.columns());
    return work(
        () -> {
          NDArray leaf = leaf(x);
          NDArray y =
              backward(
                  () -> {
                    NDList halves = leaf.split(2, 1);
                    NDArray gate = halves.get(0);
                    return gate.getNDArrayInternal().sigmoid().mul(gate).mul(halves.get(1));
                  },
                  dy);
          return new NDList(y, leaf.getGradient());
        });
  }

  @Override
  public Work sampleTokens(SampleTokensBenchmark.Inputs in) {
    LogitsBenchmark.Inputs rows = in.logits();
    NDArray logits = tensor(rows.logits(), rows.rows(), rows.vocabulary());
    NDArray uniform = tensor(in.uniform(), rows.rows(), 1);
    return work(
        () -> {
          NDArray cumulative = logits.softmax(1).cumSum(1);
          NDArray tokens = cumulative.lte(uniform).sum(new int[] {1});
          return new NDList(tokens.minimum(rows.vocabulary() - 1));
        });
  }

  @Override
  public Work gatherRows(RowsInputs in) {
    NDArray table = tensor(in.table(), in.tableRows(), in.columns());
    NDArray index = indices(in.index());
    return work(() -> table.getNDArrayInternal().embedding(index, table, SparseFormat.DENSE));
  }

  /** A product with a sparse matrix: DJL has no scatter that adds. */
  @Override
  public Work scatterAddRows(RowsInputs in) {
    NDArray table = tensor(in.table(), in.tableRows(), in.columns());
    int count = in.index().length;
    NDArray rows = tensor(in.rows(), count, in.columns());
    float[] ones = new float[count];
    Arrays.fill(ones, 1);
    long[][] coordinates = {longs(in.index()), LongStream.range(0, count).toArray()};
    Shape shape = new Shape(in.tableRows(), count);
    return inPlace(
        () -> {
          NDArray selection = manager.createCoo(FloatBuffer.wrap(ones), coordinates, shape);
          table.addi(selection.matMul(rows));
        },
        table);
  }

  @Override
  public Work axpby(AxpbyBenchmark.Inputs in) {
    NDArray x = tensor(in.x(), in.rows(), in.columns());
    NDArray y = tensor(in.y(), in.rows(), in.columns());
    return inPlace(() -> y.muli(AxpbyBenchmark.B).addi(x.mul(AxpbyBenchmark.A)), y);
  }

  @Override
  public Work copy(AxpbyBenchmark.Inputs in) {
    NDArray x = tensor(in.x(), in.rows(), in.columns());
    NDArray y = tensor(in.y(), in.rows(), in.columns());
    NDIndex all = new NDIndex(":");
    return inPlace(() -> y.set(all, x), y);
  }
}
