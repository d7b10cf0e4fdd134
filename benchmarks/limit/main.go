// Command limit moves pods through a control plane with as little beside it as possible: it creates them from a manifest,
// follows them with one watch, and deletes each as it ends. What it reaches is what the control plane can carry.
//
// Usage: limit -manifest FILE [-namespace NAME] [-pods N] [-creators N], with the cluster of KUBECONFIG. It prints one
// line of JSON: {"pods": …, "seconds": …}.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/clientcmd"
)

// label marks the pods of one run.
const label = "dynapod-limit"

type result struct {
	Pods    int     `json:"pods"`
	Seconds float64 `json:"seconds"`
}

func main() {
	log.SetFlags(0)
	manifest := flag.String("manifest", "", "file with the pod to create, as JSON; its name gets a number")
	namespace := flag.String("namespace", "default", "where")
	count := flag.Int("pods", 1000, "how many pods")
	creators := flag.Int("creators", 32, "how many requests of a kind at a time")
	flag.Parse()
	pods, err := connect(*namespace)
	if err != nil {
		log.Fatalf("limit: %v", err)
	}
	template, err := read(*manifest)
	if err != nil {
		log.Fatalf("limit: manifest: %v", err)
	}
	seconds, err := run(context.Background(), pods, template, *count, *creators)
	if err != nil {
		log.Fatalf("limit: %v", err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(result{*count, seconds}); err != nil {
		log.Fatalf("limit: %v", err)
	}
}

func connect(namespace string) (typedv1.PodInterface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // no limit of our own
	config.ContentType = "application/vnd.kubernetes.protobuf"
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return clients.CoreV1().Pods(namespace), nil
}

func read(path string) (*corev1.Pod, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pod := &corev1.Pod{}
	return pod, json.Unmarshal(data, pod)
}

// run returns the seconds from the first request to the last pod's end.
func run(ctx context.Context, pods typedv1.PodInterface, template *corev1.Pod, count, creators int) (float64, error) {
	mark := fmt.Sprint(time.Now().UnixNano())
	selector := label + "=" + mark
	listed, err := pods.List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	failed := make(chan error, 2*creators)
	create(ctx, pods, template, mark, count, creators, failed)
	ended := make(chan string, count)
	defer close(ended)
	remove(ctx, pods, creators, ended, failed)
	if err := follow(ctx, pods, selector, listed.ResourceVersion, count, ended, failed); err != nil {
		return 0, err
	}
	return time.Since(begin).Seconds(), nil
}

func create(
	ctx context.Context, pods typedv1.PodInterface, template *corev1.Pod, mark string, count, creators int, failed chan<- error,
) {
	numbers := make(chan int, count)
	for number := range count {
		numbers <- number
	}
	close(numbers)
	for range creators {
		go func() {
			for number := range numbers {
				pod := template.DeepCopy()
				pod.Name = fmt.Sprintf("limit-%s-%d", mark, number)
				if pod.Labels == nil {
					pod.Labels = map[string]string{}
				}
				pod.Labels[label] = mark
				if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
					failed <- err
					return
				}
			}
		}()
	}
}

func remove(ctx context.Context, pods typedv1.PodInterface, creators int, ended <-chan string, failed chan<- error) {
	now := int64(0)
	for range creators {
		go func() {
			for name := range ended {
				if err := pods.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
					failed <- err
					return
				}
			}
		}()
	}
}

// follow watches until count pods are gone; those that have ended go to ended, each once.
func follow(
	ctx context.Context,
	pods typedv1.PodInterface,
	selector, version string,
	count int,
	ended chan<- string,
	failed <-chan error,
) error {
	seen := map[string]bool{}
	for gone := 0; gone < count; {
		// The server may close a watch at any time: go on from where it was.
		watch, err := pods.Watch(ctx, metav1.ListOptions{LabelSelector: selector, ResourceVersion: version})
		if err != nil {
			return err
		}
		for open := true; open && gone < count; {
			select {
			case err := <-failed:
				return err
			case event, ok := <-watch.ResultChan():
				pod, isPod := event.Object.(*corev1.Pod)
				if open = ok; !ok {
					break
				}
				if !isPod {
					return fmt.Errorf("watch: %v", event.Object)
				}
				version = pod.ResourceVersion
				over := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
				switch {
				case event.Type == "DELETED":
					gone++
				case over && !seen[pod.Name]:
					seen[pod.Name] = true
					ended <- pod.Name
				}
			}
		}
		watch.Stop()
	}
	return nil
}
